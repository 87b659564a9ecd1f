"""Defines mutants, and makes all mutants of a file."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]


class Edit(NamedTuple):
    """A change: bytes `start` to `end` of a file become `new`. It has an effect if `lines` run."""

    function: str
    start: int
    end: int
    new: str
    lines: range


class Key(NamedTuple):
    """Identifies a mutant even if lines move: by the changed lines, before and after.

    `nth` counts equal changes in one function.
    """

    file: str
    function: str
    before: str
    after: str
    nth: int


@dataclass(frozen=True)
class Mutant:
    key: Key
    line: int
    lines: range
    text: str  # the whole file with the change

    @property
    def is_sql(self) -> bool:
        return self.key.file.endswith(".sql")

    def __str__(self) -> str:
        key = self.key
        nth = f" ({key.nth})" if key.nth > 1 else ""
        return (
            f"{key.file}:{self.line}: {key.function}{nth}\n"
            f"    - {key.before}\n    + {key.after or '(nothing)'}"
        )


def mutants_of(file: str, source: str | None = None) -> list[Mutant]:
    """Returns all mutants of a file, in the order of their changes."""
    from tests.mutation import python, sql

    text = (ROOT / file).read_text() if source is None else source
    edits = sql.edits(text) if file.endswith(".sql") else python.edits(text)
    seen: Counter[tuple[str, str, str]] = Counter()
    found: dict[str, Mutant] = {}
    for edit in sorted(set(edits), key=lambda edit: (edit.start, edit.end, edit.new)):
        mutant = _mutant(file, text.encode(), edit, seen)
        if mutant.text != text and mutant.text not in found:
            found[mutant.text] = mutant
    return list(found.values())


def _mutant(file: str, source: bytes, edit: Edit, seen: Counter[tuple[str, str, str]]) -> Mutant:
    begin = source.rfind(b"\n", 0, edit.start) + 1
    finish = source.find(b"\n", edit.end)
    finish = len(source) if finish < 0 else finish
    new = edit.new.encode()
    before = _on_one_line(source[begin:finish])
    after = _on_one_line(source[begin : edit.start] + new + source[edit.end : finish])
    seen[edit.function, before, after] += 1
    return Mutant(
        Key(file, edit.function, before, after, seen[edit.function, before, after]),
        source.count(b"\n", 0, edit.start) + 1,
        edit.lines,
        (source[: edit.start] + new + source[edit.end :]).decode(),
    )


def _on_one_line(text: bytes) -> str:
    return re.sub(r"\s+", " ", text.decode()).strip()
