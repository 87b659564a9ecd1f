"""Limits on waiting for locks, per connection and among the requests of one process."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection, transaction

from billing import ledger
from billing.models import Channel
from tests.billing.histories import execute
from tests.conftest import THREADS_MAX_SECONDS, Connections
from tests.factories import user_with
from users import database
from users.database import WEB, WORKER, Busy, Limits, Turns


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """`limit(WEB)` gives new connections the limits of a web process."""

    def use(limits: Limits) -> None:
        monkeypatch.setattr(database._Process, "limits", limits)
        connection.close()

    yield use
    connection.close()


def settings_of_connection() -> dict[str, str]:
    names = ("lock_timeout", "idle_in_transaction_session_timeout", "statement_timeout")
    return {name: str(execute(f"SHOW {name}")[0][0]) for name in names}


def test_commands_wait_for_as_long_as_it_takes(committed_db: None) -> None:
    assert set(settings_of_connection().values()) == {"0"}


def test_pages_and_workers_do_not(committed_db: None, limit: Any) -> None:
    limit(WEB)
    assert settings_of_connection() == {
        "lock_timeout": "2s",
        "idle_in_transaction_session_timeout": "1min",
        "statement_timeout": "5min",
    }
    limit(WORKER)
    assert settings_of_connection() == {
        "lock_timeout": "10s",
        "idle_in_transaction_session_timeout": "1min",
        "statement_timeout": "0",
    }


def test_what_the_address_says_counts_more(
    committed_db: None, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = connection.settings_dict["OPTIONS"]
    monkeypatch.setitem(options, "options", "-c lock_timeout=7s")
    limit(WEB)
    assert settings_of_connection()["lock_timeout"] == "7s"
    assert settings_of_connection()["statement_timeout"] == "5min"


def test_of_one_process_one_request_waits_for_a_row_and_the_others_are_told() -> None:
    turns = Turns()
    with turns.taken([7]):
        outcome: list[str] = []

        def ask(key: int) -> None:
            try:
                with turns.taken([key]):
                    outcome.append("its turn")
            except Busy:
                outcome.append("busy")

        for key in (7, 7, 8):
            thread = threading.Thread(target=ask, args=[key])
            thread.start()
            thread.join()
    assert outcome == ["busy", "busy", "its turn"]
    with turns.taken([7]):
        pass


def test_whoever_leaves_out_what_is_held_waits_for_nobody(
    connections: Connections, limit: Any
) -> None:
    limit(Limits(lock_timeout_seconds=60, idle_in_transaction_seconds=60, takes_turns=True))
    user = user_with(1)
    is_held, is_done = threading.Event(), threading.Event()

    def work(place: int) -> list[int]:
        with transaction.atomic():
            if place == 0:
                held = ledger.lock_balances([user.pk])
                is_held.set()
                assert is_done.wait(THREADS_MAX_SECONDS / 2), "the other one waits"
            else:
                assert is_held.wait(THREADS_MAX_SECONDS)
                held = ledger.lock_balances([user.pk], skip_locked=True)
                is_done.set()
            return list(held)

    outcomes = connections(2, work)
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert [outcome.result for outcome in outcomes] == [[user.pk], []]


def test_of_those_who_ask_for_a_held_balance_one_waits_and_the_others_are_told(
    connections: Connections, limit: Any
) -> None:
    limit(Limits(lock_timeout_seconds=60, idle_in_transaction_seconds=60, takes_turns=True))
    user = user_with(1)
    is_held, is_told = threading.Event(), threading.Event()

    def work(place: int) -> list[int]:
        with transaction.atomic():
            if place:
                assert is_held.wait(THREADS_MAX_SECONDS)
            try:
                held = ledger.lock_balances([user.pk])
            except Busy:
                is_told.set()
                raise
            if not place:
                is_held.set()
                assert is_told.wait(THREADS_MAX_SECONDS / 2), "the others wait, too"
            return list(held)

    outcomes = connections(3, work)
    assert [outcome.result for outcome in outcomes].count([user.pk]) == 2
    assert [type(outcome.error) for outcome in outcomes if outcome.error] == [Busy]


def test_many_at_once_are_all_posted_where_nobody_holds_a_balance_for_long(
    connections: Connections, limit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that has locked a balance locks it again without waiting for others that want it."""
    monkeypatch.setattr(database, "PATIENCE_SECONDS", 60)  # enough for a slow machine
    limit(Limits(lock_timeout_seconds=60, idle_in_transaction_seconds=60, takes_turns=True))
    user = user_with(1)
    to_be_reversed = user_with(1)

    def work(place: int) -> None:
        if place % 2:
            ledger.reverse(
                to_be_reversed,
                number=1,
                description="Wrong user",
                idempotency_key="once",
                actor=None,
                channel=Channel.API,
            )
        for each in (user, to_be_reversed):
            ledger.change_balance(
                each, amount=1, description="Paid at the desk", actor=None, channel=Channel.API
            )

    for outcome in connections(8, work):
        if outcome.error:
            raise outcome.error
    assert ledger.balance(user).real == 9
    assert ledger.balance(to_be_reversed).real == 8
