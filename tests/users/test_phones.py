"""The digits that the search looks for if a telephone number is typed."""

import pytest

from users.phones import spellings

# What is typed → the digits that are looked for: as typed, with the country, with the national
# prefix, and without both if that is long enough to mean one number.
EXAMPLES = [
    ("+44 20 7946 0018", {"442079460018", "02079460018", "2079460018"}),
    ("+44 (0)20 7946 0018", {"4402079460018", "442079460018", "02079460018", "2079460018"}),
    ("0044 20 7946 0018", {"00442079460018", "442079460018", "02079460018", "2079460018"}),
    ("020 7946 0018", {"02079460018", "2079460018"}),
    ("+36 1 234 5678", {"3612345678", "0612345678"}),  # its prefix is 06
    ("+7 916 123-45-67", {"79161234567", "89161234567", "9161234567"}),  # 8
    ("+39 06 1234 5678", {"390612345678", "0612345678"}),  # none: the zero belongs to it
    ("+1 555 010 9999", {"15550109999", "5550109999"}),
    # Parts of numbers, and numbers that are no telephone numbers.
    ("+49 1", {"491"}),
    ("00123", {"00123"}),
    ("00123456", {"00123456"}),
    ("+999 1234567890", {"9991234567890"}),
    ("0123", {"0123"}),
    ("7946 0018", {"79460018"}),
    ("+", {""}),
]


@pytest.mark.parametrize(("typed", "digits"), EXAMPLES)
def test_a_number_is_looked_for_in_all_its_spellings(typed: str, digits: set[str]) -> None:
    assert spellings(typed) == digits
