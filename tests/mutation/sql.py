"""Finds small changes to make to the body of a database function, between its `$function$`.

It works on tokens, without a parser. If PostgreSQL refuses a change, that is not a mutant.
"""

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.mutation.mutants import Edit

TOKEN: Final = re.compile(
    r"""
    (?P<blank>\s+|--[^\n]*)
    | (?P<text>'(?:[^']|'')*')
    | (?P<number>\d+(?:\.\d+)?)
    | (?P<word>[A-Za-z_][A-Za-z_0-9]*|"[^"]*")
    | (?P<sign>:=|::|<>|<=|>=|\|\||->>|->|&&|.)
    """,
    re.VERBOSE | re.DOTALL,
)
SIGNS: Final = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "=": ("<>",),
    "<>": ("=",),
    "+": ("-",),
    "-": ("+",),
}
WORDS: Final = {
    "LEAST": "greatest",
    "GREATEST": "least",
    "TRUE": "false",
    "FALSE": "true",
    "EXISTS": "NOT EXISTS",
}
# Phrases and their replacements. The first phrase that matches is used.
PHRASES: Final = (
    ("IS NOT DISTINCT FROM", "IS DISTINCT FROM"),
    ("IS DISTINCT FROM", "IS NOT DISTINCT FROM"),
    ("IS NOT NULL", "IS NULL"),
    ("IS NULL", "IS NOT NULL"),
    ("NOT BETWEEN", "BETWEEN"),
    ("NOT EXISTS", "EXISTS"),
    ("NOT IN", "IN"),
    ("NOT", ""),
    ("FOR NO KEY UPDATE SKIP LOCKED", "SKIP LOCKED:"),
    ("FOR NO KEY UPDATE", ""),
    ("ON CONFLICT DO NOTHING", ""),
)
# Tokens that end a condition at the same depth of parentheses.
ENDS: Final = frozenset(
    """
    AND OR THEN LOOP ORDER GROUP RETURNING UNION FOR LEFT JOIN CROSS WHERE ELSE WHEN END INTO LIMIT
    ; , ]
    """.split()  # noqa: SIM905 - one per line would fill a page
)
BEGINNINGS: Final = frozenset(["WHERE", "IF", "ELSIF", "WHEN", "ON", "("])
# Tokens that stand before a statement, and tokens that begin a statement that can be left out.
BEFORE_STATEMENTS: Final = frozenset([";", "BEGIN", "THEN", "ELSE", "LOOP"])
STATEMENTS: Final = frozenset(
    ["PERFORM", "INSERT", "UPDATE", "DELETE", "RAISE", "CONTINUE", "SELECT"]
)


class Token(NamedTuple):
    kind: str
    text: str
    start: int  # in bytes
    end: int
    depth: int  # the number of open parentheses and CASEs

    @property
    def name(self) -> str:
        return self.text.upper()


def edits(source: str) -> Iterator[Edit]:
    header, _, rest = source.partition("AS $function$")
    body, _, _ = rest.partition("$function$")
    [function] = re.findall(r"FUNCTION public\.(\w+)", header)
    tokens = list(_tokens(body, len((header + "AS $function$").encode())))
    for place, token in enumerate(tokens):
        changes = [
            *_of_one(token, tokens[place - 1] if place else None),
            *_of_phrase(tokens, place),
            *_of_conditions(tokens, place),
            *_of_statement(tokens, place),
        ]
        for start, end, new in changes:
            yield Edit(function, start, end, new, range(0))


def _tokens(body: str, at: int) -> Iterator[Token]:
    depth = 0
    for found in TOKEN.finditer(body):
        kind, text = found.lastgroup or "", found[0]
        end = at + len(text.encode())
        if kind != "blank":
            if text == ")" or text.upper() == "END":
                depth = max(0, depth - 1)
            yield Token(kind, text, at, end, depth)
            if text == "(" or text.upper() == "CASE":
                depth += 1
        at = end


type Change = tuple[int, int, str]


def _of_one(token: Token, before: Token | None) -> Iterator[Change]:
    def become(*texts: str) -> Iterator[Change]:
        for text in texts:
            yield token.start, token.end, text

    if token.kind == "sign":
        yield from become(*SIGNS.get(token.text, ()))
    elif token.kind == "number":
        whole, _, decimals = token.text.partition(".")
        if decimals:
            yield from become(f"{whole}.{decimals[:-1]}{(int(decimals[-1]) + 9) % 10}")
        else:
            yield from become(str(int(whole) + 1), f"({int(whole) - 1})")
    elif token.kind == "text":
        if re.fullmatch(r"'[a-z_.]+'", token.text):
            yield from become(f"{token.text[:-1]}_'")  # a code; sentences are left alone
        elif before and before.name == "INTERVAL":
            yield from become(re.sub(r"\d+", lambda n: str(int(n[0]) * 2), token.text))
    elif token.name in WORDS and not (before and before.name == "NOT"):
        yield from become(WORDS[token.name])


def _of_phrase(tokens: list[Token], place: int) -> Iterator[Change]:
    token = tokens[place]
    names = " ".join(each.name for each in tokens[place : place + 6]) + " "
    for old, new in PHRASES:
        if names.startswith(f"{old} "):
            end = tokens[place + len(old.split()) - 1].end
            if place and tokens[place - 1].name == "IS" and old == "NOT":
                return
            if new == "SKIP LOCKED:":
                yield token.start, end, ""
                yield token.start, end, "FOR NO KEY UPDATE"
            else:
                yield token.start, end, new
            return


def _of_conditions(tokens: list[Token], place: int) -> Iterator[Change]:
    token = tokens[place]
    if token.name not in {"AND", "OR"} or _is_of_between(tokens, place):
        return
    yield token.start, token.end, "OR" if token.name == "AND" else "AND"
    # Leaves out the condition after AND or OR.
    last = place
    while last + 1 < len(tokens) and not _ends(tokens, last + 1, token.depth):
        last += 1
    yield token.start, tokens[last].end, ""
    # Leaves out the condition before it, if that is the first one.
    first = place
    while first and not _begins(tokens[first - 1], token.depth):
        first -= 1
        each = tokens[first]
        joins = each.name in {"AND", "OR"} and not _is_of_between(tokens, first)
        if joins and each.depth == token.depth:
            return
    if first:
        yield tokens[first].start, token.end, ""


def _begins(token: Token, depth: int) -> bool:
    opens = token.text == "(" and token.depth == depth - 1
    return opens or (token.name in BEGINNINGS and token.text != "(" and token.depth == depth)


def _ends(tokens: list[Token], place: int, depth: int) -> bool:
    token = tokens[place]
    if token.depth != depth:
        return token.depth < depth
    if token.text == ")" or token.name == "END":
        return False  # closes something that began inside the condition
    return token.name in ENDS and not (token.name == "AND" and _is_of_between(tokens, place))


def _is_of_between(tokens: list[Token], place: int) -> bool:
    for earlier in range(place - 1, -1, -1):
        token = tokens[earlier]
        if token.depth < tokens[place].depth:
            return False
        if token.depth == tokens[place].depth:
            if token.name in {"AND", "OR"} | BEFORE_STATEMENTS | {"WHERE", "IF", "WHEN"}:
                return False
            if token.name == "BETWEEN":
                return True
    return False


def _of_statement(tokens: list[Token], place: int) -> Iterator[Change]:
    token = tokens[place]
    if place and tokens[place - 1].name not in BEFORE_STATEMENTS:
        return
    following = [each.text for each in tokens[place + 1 : place + 4]]
    is_assignment = ":=" in {following[0], following[-1]} if len(following) == 3 else False
    names = [token.name, *(text.upper() for text in following)]
    if not (
        token.name in STATEMENTS
        or names[:2] == ["RETURN", "NEXT"]
        or (is_assignment and token.name not in {"IF", "ELSIF", "FOR", "WHILE"})
    ):
        return
    for each in tokens[place:]:
        if each.text == ";" and each.depth <= token.depth:
            yield token.start, each.start, "NULL"
            return
