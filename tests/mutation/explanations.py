"""Reads `explanations.toml`, which says why certain mutants may survive.

Each table identifies a mutant by its change, so that it is found even if lines move: `file`,
`function`, the lines `before` and `after`, and `nth` if a function has several equal changes. `why`
says why the mutant does the same as the code, or why no test can tell them apart.
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
    """Returns a sentence for each mistake in the explanations themselves."""
    known = {mutant.key for mutant in mutants}
    found, seen = [], set[Key]()
    for key, why in explanations:
        name = f"{key.file}, {key.function}: {key.before} → {key.after}"
        if key not in known:
            found.append(f"This mutant does not exist any more: {name}")
        if key in seen:
            found.append(f"Explained twice: {name}")
        if not why:
            found.append(f"The explanation is empty: {name}")
        seen.add(key)
    return found
