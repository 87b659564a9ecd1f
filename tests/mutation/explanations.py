"""Why a mutant may survive: `explanations.toml`, a table for each.

It names the mutant by what it changes, so that it stays found when lines move: `file`, `function`,
the lines `before` and `after`, `nth` where a function has equal ones. `why` says what makes it
equal to the code, or why no test can tell.
"""

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.mutation.mutants import Key, Mutant

FILE: Final = Path(__file__).with_name("explanations.toml")


class Explanation(NamedTuple):
    key: Key
    why: str


def read(text: str | None = None) -> list[Explanation]:
    tables = tomllib.loads(FILE.read_text() if text is None else text).get("mutant", [])
    return [
        Explanation(
            Key(
                table["file"],
                table["function"],
                table["before"],
                table["after"],
                table.get("nth", 1),
            ),
            table["why"].strip(),
        )
        for table in tables
    ]


def problems(explanations: Iterable[Explanation], mutants: Iterable[Mutant]) -> list[str]:
    """What is wrong with the file itself; a sentence for each."""
    known = {mutant.key for mutant in mutants}
    found, seen = [], set[Key]()
    for key, why in explanations:
        name = f"{key.file}, {key.function}: {key.before} → {key.after}"
        if key not in known:
            found.append(f"There is no such mutant any more: {name}")
        if key in seen:
            found.append(f"Explained twice: {name}")
        if not why:
            found.append(f"Explained by nothing: {name}")
        seen.add(key)
    return found
