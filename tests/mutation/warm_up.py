"""Run once, before all mutants: it sets up what all tests of a session share, the database too."""

from collections.abc import Sequence


def test_the_session_is_set_up(committed_db: None, tables_for_tests: Sequence[str]) -> None:
    assert tables_for_tests
