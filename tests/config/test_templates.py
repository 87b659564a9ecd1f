"""Templates are loaded without their indentation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.template import Engine
from django.template.loader import get_template
from django.template.utils import get_app_template_dirs

TEXT = "<p>\n    One\n\n    <b>two</b>   three </p>\n"


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    for name in ("page.html", "letter.txt"):
        (tmp_path / name).write_text(TEXT)
    return Engine([str(tmp_path)], loaders=["config.templates.FileSystem"])


def test_space_with_a_line_break_becomes_a_line_break(engine: Engine) -> None:
    assert engine.get_template("page.html").source == "<p>\nOne\n<b>two</b>   three </p>\n"


def test_other_texts_are_loaded_as_they_are(engine: Engine) -> None:
    assert engine.get_template("letter.txt").source == TEXT


def test_while_debugging_lines_are_those_of_the_file(engine: Engine, settings: Any) -> None:
    settings.DEBUG = True
    assert engine.get_template("page.html").source == TEXT


@pytest.mark.parametrize(
    "name", ["billing/transactions.html", "unfold/layouts/skeleton.html", "503.html"]
)
def test_the_panels_own_templates_and_those_of_others_are_loaded_so(name: str) -> None:
    template: Any = get_template(name)
    assert "\n " not in template.template.source
    assert template is not get_template(name)
    assert template.template is get_template(name).template, "it is compiled once"  # type: ignore[attr-defined]


def texts_kept_as_they_are() -> Iterator[tuple[Path, str]]:
    from django.conf import settings

    for folder in [Path(settings.BASE_DIR) / "templates", *get_app_template_dirs("templates")]:
        for path in Path(folder).rglob("*.html"):
            for text in re.findall(
                r"<(?:pre|textarea)\b[^>]*>(.*?)</(?:pre|textarea)>", path.read_text(), re.S
            ):
                yield path, text


def test_no_template_has_a_text_in_which_indentation_counts() -> None:
    texts = list(texts_kept_as_they_are())
    assert texts
    assert not [str(path) for path, text in texts if re.search(r"\n\s+\S|\S[ \t]*\n\s*\n", text)]
