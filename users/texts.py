"""Texts: which characters people can see, and which texts the database cannot store.

One rule holds for every text that people or programs write, in every channel: all of its characters
can be seen. Invisible characters make different texts look the same, or garble the text next to
them.
"""

import re
from typing import Final
from unicodedata import category

CANNOT_BE_SEEN: Final = "This contains invisible characters."

# Unicode's property Default_Ignorable_Code_Point, which Python does not know. Python classifies
# some of these as letters or marks, like the Hangul fillers.
_IGNORABLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Control characters, formatting characters, and the two that break lines.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"
_STYLES_OF_EMOJI: Final = "\ufe0e\ufe0f"
_SKIN_TONES: Final = "\U0001f3fb\U0001f3fc\U0001f3fd\U0001f3fe\U0001f3ff"
_KEYCAPS: Final = "0123456789#*"
_BLANK_BRAILLE: Final = "\u2800"
# Persian, Arabic, the languages of India and others are written with joiners. In Unicode their
# letters come after Latin, Greek, Cyrillic and Armenian, where a joiner would be invisible.
_FIRST_LETTER_THAT_JOINS: Final = "\u0590"


def has_invisible(text: str, *, lines: bool = False) -> bool:
    """True if a text contains an invisible character, or consists of blank characters alone.

    With `lines`, line breaks and tabs are allowed. Joiners between letters that need them count as
    visible, and so do the characters that choose the picture of an emoji. Plain spaces, or an empty
    text, are for the caller to judge.
    """
    if text.isascii() and text.isprintable():
        return False  # the usual case, made fast
    for place, character in enumerate(text):
        if not _is_invisible(character) or (lines and character in "\n\r\t"):
            continue
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        if character in _JOINERS and (_is_joined(before, after) or _is_emoji(before, after)):
            continue
        if character in _STYLES_OF_EMOJI and before and _takes_a_style(before):
            continue
        return True
    # A text of plain spaces is for each field to judge. One of other blanks would pass for a text.
    return bool(text.strip(" \n\r\t")) and all(map(_is_blank, text))


def _is_invisible(character: str) -> bool:
    return bool(_IGNORABLE.match(character)) or category(character) in _INVISIBLE


def _is_blank(character: str) -> bool:
    return character.isspace() or character == _BLANK_BRAILLE or _is_invisible(character)


def _is_joined(before: str, after: str) -> bool:
    return (
        before >= _FIRST_LETTER_THAT_JOINS
        and _is_of_a_word(before)
        and after >= _FIRST_LETTER_THAT_JOINS
        and _is_of_a_word(after)
    )


def _is_of_a_word(character: str) -> bool:
    return not _is_invisible(character) and category(character)[0] in "LM"


def _is_emoji(before: str, after: str) -> bool:
    """True if a joiner between these two connects parts of one emoji."""
    parts = _STYLES_OF_EMOJI + _SKIN_TONES
    is_begun = bool(before) and (category(before) == "So" or before in parts)
    return is_begun and bool(after) and category(after) in ("So", "Sm")


def _takes_a_style(before: str) -> bool:
    return category(before) in ("So", "Sm", "Po") or before in _KEYCAPS or before in "↔"


def readable(text: str) -> str:
    """Returns the text with a space for each invisible character, if `has_invisible` refuses it."""
    if not has_invisible(text):
        return text
    return "".join(" " if _is_invisible(each) else each for each in text)


def storage_problem(text: str) -> str | None:
    """Returns why the database cannot store a text, as a predicate without a subject, or None."""
    if "\0" in text:
        return "contains a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character"
    return None


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun, such as "1 user" or "1,200 users"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
