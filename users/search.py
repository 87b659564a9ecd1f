"""How people are found by words: in the panel and by programs.

The database folds what is written (`users_fold`: case, accents, apostrophes, …) into the users'
`search_text`; here the question is folded by the same function. Each word may stand anywhere in a
text, also within a word.
"""

import re
from collections.abc import Iterator
from functools import reduce
from operator import and_, or_
from typing import Any, Final

from django.db import connection, models
from django.db.models import Func, Lookup, Q, QuerySet

from users.addresses import Mailbox
from users.ids import id_in
from users.models import User

LONGEST_SEARCH: Final = 200
# Of what a telephone number or a number of a company is typed.
NUMBER: Final = re.compile(r"[0-9+.:/\\#*_]*[0-9][0-9+.:/\\#*_]*")
GROUPING: Final = re.compile(r"[^0-9]")
SHORTEST_NUMBER: Final = 4  # fewer digits, put together of several words, mean nothing
INDEXED_FROM: Final = 3  # characters: shorter words are in no trigram


class Folded(Func):
    """In a query: a text as it is compared."""

    function = "users_fold"
    output_field = models.TextField(db_collation="C")


@models.TextField.register_lookup
class HasPart(Lookup):  # type: ignore[type-arg]
    """Whether a folded text contains a folded word. Of `search_text`, the index knows."""

    lookup_name = "has_part"
    prepare_rhs = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        text, parameters = self.process_lhs(compiler, connection)
        word: str = self.rhs
        pattern = f"%{connection.ops.prep_for_like_query(word)}%"
        if len(word) < INDEXED_FROM:
            return f"{text} LIKE %s", [*parameters, pattern]
        trigrams = sorted({word[place : place + 3] for place in range(len(word) - 2)})
        return (
            f"(users_trigrams({text}) @> %s::text[] AND {text} LIKE %s)",
            [*parameters, trigrams, *parameters, pattern],
        )


def folded_words(text: str) -> list[str]:
    """The words of a question, as they are compared."""
    text = text[:LONGEST_SEARCH].replace("\0", "")
    if not text.strip():
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT users_fold(%s)", [text])
        [folded] = cursor.fetchone()
    return str(folded).split()


def search(users: QuerySet[User], text: str) -> QuerySet[User]:
    """Those in whom every word is found; a number, also after a #, finds the user with that ID,
    and a telephone number is found however its digits are grouped."""
    condition = found_by(text)
    return users if condition is None else users.filter(condition)


def found_by(text: str) -> Q | None:
    """The condition of `search`; None if nothing is asked."""
    words = folded_words(text)
    if not words:
        # Apostrophes alone, say, are in nobody's text.
        return Q(pk__in=[]) if text.strip() else None
    return reduce(and_, (_found_together(each) for each in _together(words)))


def _together(words: list[str]) -> Iterator[list[str]]:
    """The words, those of one number next to each other in one list: "+91", "20", "5555"."""
    number: list[str] = []
    for word in words:
        if NUMBER.fullmatch(word):
            number.append(word)
            continue
        if number:
            yield number
            number = []
        yield [word]
    if number:
        yield number


def _found_together(words: list[str]) -> Q:
    each = reduce(and_, map(_found, words))
    digits = GROUPING.sub("", "".join(words))
    is_number = bool(NUMBER.fullmatch(words[0])) and len(digits) >= SHORTEST_NUMBER
    # One word of digits alone asks for them already.
    return each | Q(search_text__has_part=digits) if is_number and [digits] != words else each


def _found(word: str) -> Q:
    ways = [Q(search_text__has_part=word)]
    if (user_id := id_in(word.removeprefix("#"))) is not None:
        ways.append(Q(pk=user_id))
    if "@" in word.strip("@"):
        ways.append(Q(email_identity=Mailbox(word)))
    return reduce(or_, ways)


def in_which(rows: QuerySet[Any], words: list[str], **texts: Any) -> QuerySet[Any]:
    """Those rows of a small table in which every word is found in some of the `texts`, which are
    expressions or names of columns. No index serves this."""
    rows = rows.alias(**{f"folded_{name}": Folded(text) for name, text in texts.items()})
    for word in words:
        rows = rows.filter(
            reduce(or_, (Q(**{f"folded_{name}__contains": word}) for name in texts))
        )
    return rows
