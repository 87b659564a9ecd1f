import pytest

from users.ids import id_in


@pytest.mark.parametrize(("text", "number"), [("0", 0), ("7", 7), (str(2**63 - 1), 2**63 - 1)])
def test_an_id_is_read(text: str, number: int) -> None:
    assert id_in(text) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "+1",
        " 1",
        "1.0",
        "1_0",
        "x",
        "²",
        "٣",
        str(2**63),
        pytest.param("9" * 5000, id="5000 digits"),
    ],
)
def test_what_can_be_no_id_is_none_however_long_it_is(text: str) -> None:
    assert id_in(text) is None
