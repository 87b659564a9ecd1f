"""Runs once, before all mutants, to set up the fixtures of the session and the database."""

from collections.abc import Sequence


def test_the_session_is_set_up(committed_db: None, tables_for_tests: Sequence[str]) -> None:
    assert tables_for_tests
