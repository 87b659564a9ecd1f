"""How people are found by words: in the panel and by programs.

The database folds what is written (`users_fold`: case, accents, apostrophes, …) into the users'
`search_text`; here the question is folded by the same function. A word may stand anywhere in a
text, also within a word.
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
# Of what a telephone number or a number of a company is typed.
NUMBER: Final = re.compile(r"[0-9+.:/\\#*_]*[0-9][0-9+.:/\\#*_]*")
GROUPING: Final = re.compile(r"[^0-9]")
SHORTEST_NUMBER: Final = 4  # fewer digits, put together of several words, mean nothing

# --- The index of parts -------------------------------------------------------------------------

INDEX: Final = "user_found_by_any_part"
TRIGRAM: Final = 3
ASKED_OF_THE_INDEX: Final = 4  # trigrams of a word: the rarest narrow it down, more cost time
# What is in more texts than this is found faster by reading all of them.
TOO_COMMON: Final = 0.03
STATISTICS_SECONDS: Final = 600


class Folded(Func):
    """In a query: a text as it is compared."""

    function = "users_fold"
    output_field = models.TextField(db_collation="C")


@models.TextField.register_lookup
class HasPart(Lookup):
    """Whether the `search_text` of a user contains a folded word, by the index where that helps."""

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
    """What the index is to be asked for; nothing where it is better not asked."""
    trigrams = {word[place : place + TRIGRAM] for place in range(len(word) - TRIGRAM + 1)}
    frequencies = _frequencies()
    by_frequency = sorted(trigrams, key=lambda each: (frequencies.get(each, 0), each))
    if not by_frequency or frequencies.get(by_frequency[0], 0) > TOO_COMMON:
        return []
    return by_frequency[:ASKED_OF_THE_INDEX]


def _frequencies() -> Mapping[str, float]:
    """In which share of all texts the most common trigrams are, as the database last counted."""
    known: Mapping[str, float] | None = cache.get(INDEX)
    if known is None:
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT most_common_elems::text::text[], most_common_elem_freqs FROM pg_stats "
                "WHERE tablename = %s AND most_common_elems IS NOT NULL",
                [INDEX],
            )
            counted = cursor.fetchone()
        # The frequencies end with those of the rarest and the most common one once more.
        known = dict(zip(*counted, strict=False)) if counted else {}
        cache.set(INDEX, known, STATISTICS_SECONDS)
    return known


# --- Questions ----------------------------------------------------------------------------------


class Asked(NamedTuple):
    """A word of a question: as it was typed, and the words that it is when folded."""

    typed: str
    folded: Sequence[str]

    @property
    def is_of_a_number(self) -> bool:
        return bool(self.folded) and all(map(NUMBER.fullmatch, self.folded))


def asked(text: str) -> list[Asked]:
    typed = normalize("NFC", text[:LONGEST_SEARCH].replace("\0", "")).split()
    if not typed:
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT users_fold(each) FROM unnest(%s::text[]) AS each", [typed])
        return [
            Asked(word, folded.split())
            for word, (folded,) in zip(typed, cursor.fetchall(), strict=True)
        ]


def search(users: QuerySet[User], text: str) -> QuerySet[User]:
    """Those in whom every word is found; a number, also after a #, finds the user with that ID,
    and a telephone number is found however it is spelled, with its country or without."""
    return users.filter(found_by(text))


def found_by(text: str, user: str = "", beside: Callable[[Asked], Q] | None = None) -> Q:
    """The condition of `search`, for rows of which `user` is the way to a user ("owner").

    `beside` says what else of a row a word may be found in.
    """
    words = asked(text)
    if words and not any(word.folded for word in words):
        return Q(pk__in=[])  # apostrophes alone, say, are in no text
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


def _together(words: Sequence[Asked]) -> Iterator[list[Asked]]:
    """The words that say something; those of a number next to each other in one list."""
    number: list[Asked] = []
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
    """Conditions on users, as rows of their own or by way of others."""

    def __init__(self, way: str) -> None:
        self.way = way
        # The index serves where the users are what is listed; joined, each is looked at anyway.
        self.lookup = "contains" if way else "has_part"

    def with_part(self, folded: str) -> Q:
        return Q(**{f"{self.way}search_text__{self.lookup}": folded})

    def with_word(self, word: Asked) -> Q:
        found = reduce(and_, map(self.with_part, word.folded), Q())
        if (user_id := id_in(word.typed.strip("#,;"))) is not None:
            found |= Q(**{f"{self.way}pk": user_id})
        if "@" in word.typed:
            found |= Q(**{f"{self.way}email_identity": Mailbox(word.typed.strip("<>()\"',;"))})
        return found


def in_texts(rows: QuerySet[Any], text: str, *names: str) -> QuerySet[Any]:
    """Those rows of a small table in which every word is found in some text. No index serves it."""
    rows = rows.alias(**{f"folded_{name}": Folded(name) for name in names})
    for word in asked(text):
        ways = [
            reduce(and_, (Q(**{f"folded_{name}__contains": each}) for each in word.folded))
            for name in names
            if word.folded
        ]
        rows = rows.filter(reduce(or_, ways)) if ways else rows
    return rows
