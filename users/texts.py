"""Texts: which characters people can see, and what the database cannot hold.

There is one rule for every text that people or programs write, at every channel: all of it can be
seen. What cannot be seen makes two of what looks like one, or garbles what stands beside it.
"""

import re
from typing import Final
from unicodedata import category

CANNOT_BE_SEEN: Final = "This contains characters that cannot be seen."

# Unicode's property Default_Ignorable_Code_Point, which Python does not know. Some of these are
# letters or marks to it, like the Hangul fillers.
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
# Persian, Arabic, the languages of India and others are written with joiners. Their letters come
# after those of Latin, Greek, Cyrillic and Armenian, where a joiner would only hide.
_FIRST_LETTER_THAT_JOINS: Final = "\u0590"


def has_unseen(text: str, *, lines: bool = False) -> bool:
    """Whether something in a text cannot be seen, or nothing in it can; `lines` may be several.

    Joiners between letters that need them, and what chooses the picture of an emoji, are seen.
    """
    if text.isascii() and text.isprintable():
        return False  # as most are: nothing of what follows can be wrong with it
    for place, character in enumerate(text):
        if not _is_unseen(character) or (lines and character in "\n\r\t"):
            continue
        before, after = text[place - 1 : place], text[place + 1 : place + 2]
        if character in _JOINERS and (_is_joined(before, after) or _is_emoji(before, after)):
            continue
        if character in _STYLES_OF_EMOJI and before and _takes_a_style(before):
            continue
        return True
    # Spaces alone are for each field to judge. Wider ones would look like a text that is there.
    return bool(text.strip(" \n\r\t")) and all(map(_is_blank, text))


def _is_unseen(character: str) -> bool:
    return bool(_IGNORABLE.match(character)) or category(character) in _INVISIBLE


def _is_blank(character: str) -> bool:
    return character.isspace() or character == _BLANK_BRAILLE or _is_unseen(character)


def _is_joined(before: str, after: str) -> bool:
    return (
        before >= _FIRST_LETTER_THAT_JOINS
        and _is_of_a_word(before)
        and after >= _FIRST_LETTER_THAT_JOINS
        and _is_of_a_word(after)
    )


def _is_of_a_word(character: str) -> bool:
    return not _is_unseen(character) and category(character)[0] in "LM"


def _is_emoji(before: str, after: str) -> bool:
    """Whether a joiner stands within a picture that is made of several."""
    parts = _STYLES_OF_EMOJI + _SKIN_TONES
    is_begun = bool(before) and (category(before) == "So" or before in parts)
    return is_begun and bool(after) and category(after) in ("So", "Sm")


def _takes_a_style(before: str) -> bool:
    return category(before) in ("So", "Sm", "Po") or before in _KEYCAPS or before in "↔"


def readable(text: str) -> str:
    """A text from elsewhere, with a space for each stretch that has_unseen would refuse."""
    if not has_unseen(text):
        return text
    return "".join(" " if _is_unseen(each) else each for each in text)


def unstorable(text: str) -> str | None:
    """Why the database cannot hold a text, if it cannot: what it does, without a subject."""
    if "\0" in text:
        return "contains a null character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains half a character"
    return None
