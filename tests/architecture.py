"""Draws the floors of the code: `make architecture`, or `python -m tests.architecture`.

The floors are the layers of tests/test_architecture.py, and the lines are the imports in the code.
This writes docs/images/architecture.svg, and the table of imports in docs/architecture.md. A test
checks that both are up to date.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Final, NamedTuple

from tests.test_architecture import APPLICATIONS, LAYERS, LEVELS, ROOT, imports, layer_of, modules

PICTURE: Final = ROOT / "docs" / "images" / "architecture.svg"
PAGE: Final = ROOT / "docs" / "architecture.md"
TABLE: Final = re.compile(r"(?<=<!-- imports -->\n\n).*?(?=\n\n<!-- end of imports -->)", re.DOTALL)

Graph = Mapping[str, set[str]]

MARGIN: Final = 24
FLOOR_HEIGHT: Final = 88
BOX_HEIGHT: Final = 34
GAP: Final = 20
LANE: Final = 10  # the width that a line needs to pass a floor
LETTER: Final = 7.4
SWEEPS: Final = 12


def imports_between_floors() -> dict[str, set[str]]:
    """Returns, for each layer's module, the modules on lower floors that it imports."""
    graph: dict[str, set[str]] = {name: set() for name in LEVELS}
    for module, path in modules(*APPLICATIONS):
        own = layer_of(module)
        if own is not None:
            found = {layer_of(imported) for _, imported in imports(path, module)}
            graph[own] |= {name for name in found if name is not None and name != own}
    return graph


def without_detours(graph: Graph) -> dict[str, set[str]]:
    """Returns the graph without imports that longer paths imply.

    If a imports b and c, and b imports c, only b is left of a's imports.
    """

    def below(name: str) -> set[str]:
        return graph[name].union(*(below(each) for each in graph[name]))

    return {
        name: {
            each
            for each in imported
            if not any(each in below(other) for other in imported if other != each)
        }
        for name, imported in graph.items()
    }


# --- The picture --------------------------------------------------------------------------------


class Place(NamedTuple):
    """A module's box on its own floor, or a lane for the lines to that module on a floor above."""

    name: str
    level: int

    @property
    def is_box(self) -> bool:
        return LEVELS[self.name] == self.level

    @property
    def width(self) -> float:
        return LETTER * len(short(self.name)) + 26 if self.is_box else LANE


def short(name: str) -> str:
    return name.removeprefix("billing.")


def lines(graph: Graph) -> Iterator[tuple[Place, Place]]:
    """Yields line segments from floor to floor. Lines to one module share a lane once they meet."""
    known = set()
    for name, imported in graph.items():
        for target in imported:
            above = Place(name, LEVELS[name])
            while above.level < LEVELS[target]:
                below = Place(target, above.level + 1)
                known.add((above, below))
                above = below
    yield from sorted(known)


def arranged(drawn: Iterable[tuple[Place, Place]]) -> list[list[Place]]:
    """Returns the places of each floor from left to right, ordered so that few lines cross."""
    neighbours: dict[Place, list[Place]] = defaultdict(list)
    floors: list[list[Place]] = [
        [Place(name, level) for name in LAYERS[level]] for level in range(len(LAYERS))
    ]
    for above, below in drawn:
        neighbours[above].append(below)
        neighbours[below].append(above)
        for place in (above, below):
            if place not in floors[place.level]:
                floors[place.level].append(place)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        order = range(len(floors)) if down else range(len(floors) - 1, -1, -1)
        for level in order:
            middles = positions(floors)
            sides = level - 1 if down else level + 1

            def wanted(
                place: Place, middles: Mapping[Place, float] = middles, sides: int = sides
            ) -> float:
                found = [middles[each] for each in neighbours[place] if each.level == sides]
                return sum(found) / len(found) if found else middles[place]

            floors[level].sort(key=wanted)
    return floors


def width_of(floor: Iterable[Place]) -> float:
    widths = [place.width for place in floor]
    return sum(widths) + GAP * (len(widths) - 1)


def positions(floors: list[list[Place]]) -> dict[Place, float]:
    """Returns the x coordinate of the middle of each place; floors are centred."""
    whole = max(map(width_of, floors))
    middles = {}
    for floor in floors:
        left = MARGIN + (whole - width_of(floor)) / 2
        for place in floor:
            middles[place] = left + place.width / 2
            left += place.width + GAP
    return middles


def picture(graph: Graph) -> str:
    drawn = list(lines(without_detours(graph)))
    floors = arranged(drawn)
    middles = positions(floors)
    width = max(map(width_of, floors)) + 2 * MARGIN
    height = FLOOR_HEIGHT * len(floors) + MARGIN

    def top(place: Place) -> float:
        return MARGIN + place.level * FLOOR_HEIGHT

    def parts() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" '
            f'width="{width:.0f}" height="{height}" role="img" aria-labelledby="title about" '
            'font-family="system-ui, sans-serif" font-size="13">'
        )
        yield '<title id="title">The floors of the code</title>'
        yield (
            '<desc id="about">Each row is a floor; each line leads from a module down to one that '
            "it imports. The table in docs/architecture.md says the same in words.</desc>"
        )
        yield '<rect width="100%" height="100%" fill="#ffffff"/>'
        for level in range(0, len(floors), 2):
            at = MARGIN + level * FLOOR_HEIGHT - (FLOOR_HEIGHT - BOX_HEIGHT) / 2
            yield f'<rect y="{at:.0f}" width="100%" height="{FLOOR_HEIGHT}" fill="#f4f6fa"/>'
        for above, below in drawn:
            start = top(above) + BOX_HEIGHT
            end = top(below)
            bend = (end - start) / 2
            x, to = middles[above], middles[below]
            yield (
                f'<path d="M{x:.1f} {start:.0f}C{x:.1f} {start + bend:.0f} {to:.1f} '
                f'{end - bend:.0f} {to:.1f} {end:.0f}" fill="none" stroke="#7a869c"/>'
            )
            if below.is_box:
                yield f'<path d="M{to - 4:.1f} {end - 6:.0f}h8l-4 6z" fill="#7a869c"/>'
        for floor in floors:
            for place in floor:
                x, y = middles[place], top(place)
                if not place.is_box:
                    yield f'<path d="M{x:.1f} {y:.0f}v{BOX_HEIGHT}" stroke="#7a869c"/>'
                    continue
                yield (
                    f'<rect x="{x - place.width / 2:.1f}" y="{y:.0f}" width="{place.width:.1f}" '
                    f'height="{BOX_HEIGHT}" rx="6" fill="{colour(place.name)}" stroke="#33415c"/>'
                )
                yield (
                    f'<text x="{x:.1f}" y="{y + BOX_HEIGHT / 2 + 5:.0f}" text-anchor="middle" '
                    f'fill="#1b2333">{escape(short(place.name))}</text>'
                )
        yield "</svg>\n"

    return "\n".join(parts())


def colour(name: str) -> str:
    """Returns a module's colour: one for each application, and one for the ledger."""
    if name == "billing.ledger":
        return "#ffe9a8"
    return "#dbe7ff" if name.startswith("billing.") else "#e4f3df"


# --- The table ----------------------------------------------------------------------------------


def table(graph: Graph) -> str:
    rows = ["| floor | module | imports from lower floors |", "|---|---|---|"]
    for floor, names in enumerate(reversed(LAYERS)):
        for name in names:
            below = sorted(graph[name], key=lambda each: (LEVELS[each], each))
            listed = ", ".join(f"`{short(each)}`" for each in below) or "nothing of this project"
            rows.append(f"| {floor} | `{short(name)}` | {listed} |")
    return "\n".join(rows)


def page_with(graph: Graph, page: str) -> str:
    return TABLE.sub(lambda _: table(graph), page)


def main() -> None:
    graph = imports_between_floors()
    PICTURE.write_text(picture(graph))
    PAGE.write_text(page_with(graph, PAGE.read_text()))
    for path in (PICTURE, PAGE):
        print(f"Drawn: {path.relative_to(Path.cwd())}")  # noqa: T201


if __name__ == "__main__":
    main()
