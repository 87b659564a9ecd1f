"""Texts have no invisible characters, but all characters that names need."""

import sys
from unicodedata import category

import pytest
from hypothesis import given
from hypothesis import strategies as st

from users.texts import has_invisible, readable

IGNORABLE = [0x00AD, 0x034F, 0x061C, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180E, 0x200B]
IGNORABLE += [0x2060, 0x2064, 0x206F, 0x3164, 0xFE00, 0xFE0F, 0xFEFF, 0xFFA0, 0xFFF0]
IGNORABLE += [0x1BCA0, 0x1D173, 0xE0001, 0xE0020, 0xE0100, 0xE01EF, 0xE0FFF]


@pytest.mark.parametrize("code", IGNORABLE, ids=hex)
@pytest.mark.parametrize("text", ["{}", "Ada{}", "{}Ada", "A{}da", "Ёл{}кин"])
def test_what_is_ignored_when_shown_is_unseen(code: int, text: str) -> None:
    assert has_invisible(text.format(chr(code)))


def test_every_control_and_formatting_character_is_unseen() -> None:
    unseen = [c for c in map(chr, range(sys.maxunicode + 1)) if category(c) in ("Cc", "Cf")]
    assert [c for c in unseen if not has_invisible(f"a{c}b")] == []


@pytest.mark.parametrize(
    "name",
    [
        "Hélène",
        "He\u0301le\u0300ne",
        "O’Hara",
        "Łukasiewicz",
        "Ёлкин",
        "می\u200cخواهم",  # Persian, with the joiner that it needs
        "क्\u200dष",  # Devanagari
        "ශ්\u200dරී",  # Sinhala
        "김철수",
        "王\u3000小明",
        "",
        "   ",
        "Thanks \u2764\ufe0f",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    ],
)
def test_names_of_all_languages_can_be_written(name: str) -> None:
    assert not has_invisible(name)


@pytest.mark.parametrize(
    "name",
    [
        "\u200d",
        "\u200c\u200d",
        "A\u200dda",
        "Ada\u200d",
        "\u200dAda",
        "می\u200c",
        "\u00a0",
        "\u2800",
    ],
)
def test_a_joiner_joins_letters_that_need_it_and_a_name_is_more_than_blank(name: str) -> None:
    assert has_invisible(name)


def test_only_a_text_of_several_lines_has_several() -> None:
    assert has_invisible("One\nTwo")
    assert not has_invisible("One\r\n\tTwo", lines=True)
    assert has_invisible("One\n\u200bTwo", lines=True)


@given(st.text())
def test_what_is_made_readable_can_be_seen_or_is_blank(text: str) -> None:
    text = text.replace("\ud800", "")
    made = readable(text)
    assert not has_invisible(made) or not made.strip(" \u2800").strip()
