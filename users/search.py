"""Searches people by words, for the panel and for programs.

The database folds the texts of a user (`users_fold`: case, accents, apostrophes, …) into the column
`search_text`. A query is folded by the same function here. A word is found anywhere in a text, also
inside another word.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_, or_
from typing import Any, Final, NamedTuple
from unicodedata import normalize

from django.core.cache import cache
from django.db import connection, models
from django.db.models import Func, Lookup, Q, QuerySet

from users.addresses import Mailbox
from users.ids import id_in
from users.models import User
from users.phones import spellings

LONGEST_SEARCH: Final = 200
# The form in which telephone numbers and numbers of companies are typed.
NUMBER: Final = re.compile(r"[0-9+.:/\\#*_]*[0-9][0-9+.:/\\#*_]*")
GROUPING: Final = re.compile(r"[^0-9]")
KEPT_FOUND: Final = 1_000  # no search for a person finds so many duplicates
SHORTEST_NUMBER: Final = 4  # fewer digits, joined from several words, mean nothing

# --- The index on trigrams ----------------------------------------------------------------------

INDEX: Final = "user_found_by_any_part"
TRIGRAM: Final = 3
ASKED_OF_THE_INDEX: Final = 4  # a word's rarest trigrams; more of them cost more than they save
# A word whose rarest trigram is in more than this share of texts is found faster without the index.
TOO_COMMON: Final = 0.03
STATISTICS_SECONDS: Final = 600


class Folded(Func):
    """Query expression: a text, folded for comparison."""

    function = "users_fold"
    output_field = models.TextField(db_collation="C")


@models.TextField.register_lookup
class HasPart(Lookup):
    """Lookup: `search_text` contains a folded word. It uses the index where that is faster."""

    lookup_name = "has_part"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        text, parameters = self.process_lhs(compiler, connection)
        pattern = f"%{connection.ops.prep_for_like_query(self.rhs)}%"
        is_there = f"{text} LIKE %s"
        trigrams = _rarest_trigrams(self.rhs)
        if not trigrams:
            return is_there, [*parameters, pattern]
        by_index = f"users_trigrams({text}) @> %s::text[]"
        return f"({by_index} AND {is_there})", [*parameters, trigrams, *parameters, pattern]


def _rarest_trigrams(word: str) -> list[str]:
    """Returns the trigrams to look up in the index; none if reading all texts is faster."""
    trigrams = {word[place : place + TRIGRAM] for place in range(len(word) - TRIGRAM + 1)}
    frequencies = _frequencies()
    by_frequency = sorted(trigrams, key=lambda each: (frequencies.get(each, 0), each))
    if not by_frequency or frequencies.get(by_frequency[0], 0) > TOO_COMMON:
        return []
    return by_frequency[:ASKED_OF_THE_INDEX]


def _frequencies() -> Mapping[str, float]:
    """Returns the most common trigrams, each with the share of texts that contain it.

    These are the database's statistics, kept for STATISTICS_SECONDS.
    """
    known: Mapping[str, float] | None = cache.get(INDEX)
    if known is None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT most_common_elems::text::text[], most_common_elem_freqs FROM pg_stats "
                "WHERE tablename = %s AND most_common_elems IS NOT NULL",
                [INDEX],
            )
            counted = cursor.fetchone()
        # After one frequency per trigram, the list has the smallest and the largest once more.
        known = dict(zip(*counted, strict=False)) if counted else {}
        cache.set(INDEX, known, STATISTICS_SECONDS)
    return known


# --- Queries ------------------------------------------------------------------------------------


class QueryWord(NamedTuple):
    """A word of a query: as it was typed, and folded, which can make several words of it."""

    typed: str
    folded: Sequence[str]

    @property
    def is_of_a_number(self) -> bool:
        return bool(self.folded) and all(map(NUMBER.fullmatch, self.folded))


def query_words(text: str) -> list[QueryWord]:
    """Splits a query into words; only its first LONGEST_SEARCH characters count."""
    typed = normalize("NFC", text[:LONGEST_SEARCH].replace("\0", "")).split()
    if not typed:
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT users_fold(each) FROM unnest(%s::text[]) AS each", [typed])
        return [
            QueryWord(word, folded.split())
            for word, (folded,) in zip(typed, cursor.fetchall(), strict=True)
        ]


def search(users: QuerySet[User], text: str) -> QuerySet[User]:
    """Returns the users in whom every word of `text` is found, or in a duplicate of theirs.

    A number, also after a #, finds the user with that ID as well. A telephone number is found in
    any spelling, with or without the country.
    """
    condition = found_by(text)
    if condition:
        condition |= Q(pk__in=_kept_ids(condition))
    return users.filter(condition)


def _kept_ids(condition: Q) -> list[int]:
    """Returns the IDs of the users whose duplicates are found by `condition`.

    Asked beforehand, because the index on texts is not used for "in this text or in another one".
    """
    found = User.objects.filter(condition, duplicate_of__isnull=False)
    ids = found.values_list("duplicate_of", flat=True)[:KEPT_FOUND]
    return sorted({each for each in ids if each is not None})


def found_by(text: str, user: str = "", beside: Callable[[QueryWord], Q] | None = None) -> Q:
    """Returns the condition of `search` for rows that refer to a user.

    `user` is the lookup path from a row to its user, like "owner"; "" if the rows are users.
    `beside` returns a further condition under which a row matches a word.
    """
    words = query_words(text)
    if words and not any(word.folded for word in words):
        return Q(pk__in=[])  # nothing is left after folding, for example of apostrophes alone
    people = _People(f"{user}__" if user else "")
    condition = Q()
    for together in _together(words):
        ways = reduce(
            and_,
            (
                people.with_word(word) | beside(word) if beside else people.with_word(word)
                for word in together
            ),
        )
        digits = GROUPING.sub("", "".join("".join(word.folded) for word in together))
        if together[0].is_of_a_number and len(digits) >= SHORTEST_NUMBER:
            spelled = spellings(" ".join(word.typed for word in together))
            ways |= reduce(or_, map(people.with_part, sorted({digits} | spelled)))
        condition &= ways
    return condition


def _together(words: Sequence[QueryWord]) -> Iterator[list[QueryWord]]:
    """Yields each word in a list of its own, and neighbouring words of a number in one list.

    Words that are empty after folding are left out.
    """
    number: list[QueryWord] = []
    for word in words:
        if word.is_of_a_number:
            number.append(word)
            continue
        if number:
            yield number
            number = []
        if word.folded:
            yield [word]
    if number:
        yield number


class _People:
    """Builds conditions on users, or on rows that refer to a user by the lookup path `way`."""

    def __init__(self, way: str) -> None:
        self.way = way
        # The index helps only if users are listed; if they are joined, all are read anyway.
        self.lookup = "contains" if way else "has_part"

    def with_part(self, folded: str) -> Q:
        return Q(**{f"{self.way}search_text__{self.lookup}": folded})

    def with_word(self, word: QueryWord) -> Q:
        found = reduce(and_, map(self.with_part, word.folded), Q())
        if (user_id := id_in(word.typed.strip("#,;"))) is not None:
            found |= Q(**{f"{self.way}pk": user_id})
        if "@" in word.typed:
            found |= Q(**{f"{self.way}email_identity": Mailbox(word.typed.strip("<>()\"',;"))})
        return found


def in_texts(rows: QuerySet[Any], text: str, *names: str) -> QuerySet[Any]:
    """Returns the rows with every word of `text` in one of the columns `names`.

    No index is used, so this is for small tables.
    """
    rows = rows.alias(**{f"folded_{name}": Folded(name) for name in names})
    for word in query_words(text):
        ways = [
            reduce(and_, (Q(**{f"folded_{name}__contains": each}) for each in word.folded))
            for name in names
            if word.folded
        ]
        rows = rows.filter(reduce(or_, ways)) if ways else rows
    return rows
