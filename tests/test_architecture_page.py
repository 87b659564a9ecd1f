"""docs/architecture.md and its picture match the code."""

import re
from itertools import pairwise

from tests import architecture
from tests.architecture import PAGE, PICTURE, ROOT, imports_between_floors, without_detours
from tests.test_architecture import LAYERS, LEVELS

DRAW = "run `make architecture`, and look at what it drew"


def test_the_picture_is_drawn_from_the_code_as_it_is() -> None:
    assert PICTURE.read_text() == architecture.picture(imports_between_floors()), DRAW


def test_the_table_of_imports_is_that_of_the_code_as_it_is() -> None:
    page = PAGE.read_text()
    assert page == architecture.page_with(imports_between_floors(), page), DRAW
    assert "| `admin` | `operations`, " in page


def test_the_picture_shows_every_module_on_its_floor() -> None:
    shown = re.findall(r'<text [^>]*y="(\d+)"[^>]*>([\w.]+)</text>', PICTURE.read_text())
    assert sorted(name for _, name in shown) == sorted(
        architecture.short(name) for names in LAYERS for name in names
    )
    heights = {name: int(height) for height, name in shown}
    for above, below in pairwise(LAYERS):
        lowest = max(heights[architecture.short(name)] for name in above)
        assert lowest < min(heights[architecture.short(name)] for name in below)


def test_an_import_that_goes_along_others_is_no_line() -> None:
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": set()}
    assert without_detours(graph) == {"a": {"b", "d"}, "b": {"c"}, "c": set(), "d": set()}


def test_every_import_can_be_followed_along_the_lines() -> None:
    graph = imports_between_floors()
    lines = set(architecture.lines(without_detours(graph)))

    def reached(place: architecture.Place) -> set[str]:
        below = [end for start, end in lines if start == place]
        return {place.name}.union(*map(reached, below))

    for name, imported in graph.items():
        assert imported <= reached(architecture.Place(name, LEVELS[name])), name


def test_the_page_lists_every_file_and_package_of_the_code() -> None:
    [tree] = re.findall(r"\nbilling/\n(.*?)\ntemplates/", PAGE.read_text(), re.DOTALL)
    # A line begins with names, followed by their description: "  money.py  errors.py   amounts …".
    heads = re.findall(r"^  ((?:[a-z_]+(?:\.py|/) *)+)", tree, re.MULTILINE)
    there = {
        file.name + ("/" if file.is_dir() else "")
        for file in (ROOT / "billing").iterdir()
        if file.name not in ("__init__.py", "__pycache__")
    }
    assert {name for head in heads for name in head.split()} == there
