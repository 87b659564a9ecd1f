import re
from importlib.metadata import version
from pathlib import Path

import pytest
import unfold
from django.conf import settings

OURS = Path(settings.BASE_DIR) / "templates"
OVERRIDES = sorted([*(OURS / "unfold").rglob("*.html"), OURS / "admin" / "base.html"])


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda path: path.name)
def test_an_override_was_made_from_the_installed_unfold(override: Path) -> None:
    made_from = re.match(r"\{# Unfold ([\d.]+), changed: .+ #\}\n", override.read_text())
    assert made_from, f"{override} must begin with the Unfold version that it was made from"
    assert made_from[1] == version("django-unfold"), (
        f"{override} was made from another Unfold: compare it with the new original, then "
        "change the version in its first line."
    )


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda path: path.name)
def test_an_override_still_overrides_something(override: Path) -> None:
    originals = Path(unfold.__file__).parent / "templates"
    assert (originals / override.relative_to(OURS)).is_file()


def test_what_is_clicked_can_be_reached_with_the_keyboard() -> None:
    """Only buttons and links with an address get Alpine's x-on:click: others need a mouse."""
    for override in OVERRIDES:
        for tag in re.findall(r"<(\w+)(?=[^<>]*x-on:click=)([^<>]*)>", override.read_text()):
            name, attributes = tag
            is_backdrop = 'id="changelist-filter-close"' in attributes
            is_unused = "siteDropdownOpen" in attributes  # the panel has no list of sites
            is_reachable = name == "button" or "href=" in attributes
            assert is_reachable or is_backdrop or is_unused, (
                f"{override.name}: <{name}{attributes}>"
            )
