"""The benchmark runs, its verdicts are right, and its page is what it has measured."""

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest
from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from billing import ledger
from tests.benchmarks import (
    clusters,
    database,
    earlier,
    earlier_worker,
    export,
    growth,
    hot,
    http,
    instructions,
    notes,
    page,
    pages,
    posting,
    results,
    size,
    tab,
    verify,
    ways,
)
from tests.benchmarks.__main__ import _cluster, _command
from tests.benchmarks.filled import fill
from tests.benchmarks.options import Options, parser
from tests.benchmarks.results import Line

TINY = Options(
    rounds=1,
    calls=4,
    connections=2,
    batch=20,
    subscriptions=8,
    verified=40,
    history=1_200,
    sizes=(1_200, 2_400),
)
# Tests run in several processes.
DATABASE = f"test_benchmark_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"


@pytest.fixture
def of_template(
    django_db_setup: None,
    django_db_blocker: DjangoDbBlocker,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Lets databases of the benchmark be made from the template of the tests."""
    monkeypatch.setattr(database, "TEMPLATE", connection.settings_dict["TEST"]["TEMPLATE"])
    with django_db_blocker.unblock():
        yield
        connection.close()


def test_what_is_compared_with_the_ledger_is_measured(of_template: None) -> None:
    with database.fresh_database(DATABASE):
        user_ids = database.make_users(10)
        lines = [
            *posting.measure(user_ids, TINY),
            *hot.measure(user_ids, TINY),
            *size.measure(user_ids, TINY),
            *verify.measure(user_ids, TINY),
        ]
    measured = {line.what: line for line in lines if line.value is not None}
    assert measured["Single change, of the bare floor"].target == "≥ 0.7"
    assert measured["Batch of 10,000"].value
    assert 0 <= measured["HOT updates of balances: singles"].value <= 1
    assert measured["verify_ledger, rows/s and process, one process"].value
    not_measured = {line.what for line in lines if line.value is None}
    assert not_measured - {"verify_ledger, rows/s and process, a process for each core"} == {
        "Single change, against pgledger",
        "Single change, against pgledger, prepared",
        "Single change, against django-hordak",
        "2 connections on 50 users, against pgledger",
        "Bytes of a posting: pgledger",
    }


def test_balance_changes_over_http_are_measured(of_template: None) -> None:
    with database.fresh_database(DATABASE):
        lines = [*http.measure(database.make_users(20), TINY)]
    assert len(lines) == 8
    assert all(line.value for line in lines)


def test_an_earlier_version_is_measured_by_what_it_has_in_common(of_template: None) -> None:
    with database.fresh_database(DATABASE):
        works = earlier_worker.works_of(calls=2, batch=10, subscriptions=8, rows=20)
        assert set(works) == set(earlier.WORKS)
        assert all(work() > 0 for work in works.values())


def test_pages_of_a_long_history_are_measured(of_template: None) -> None:
    samples = {}
    lines: list[Line] = []
    for transactions in TINY.sizes:
        with database.fresh_database(DATABASE):
            filled = fill(transactions)
            samples[transactions] = growth.sample(filled, TINY)
            if transactions == TINY.history:
                lines += pages.measure(filled, TINY)
                lines += export.measure(filled, TINY)
                lines += tab.measure_pages(filled, TINY)
    of_growth = [*growth.lines(samples)]
    assert {line.what for line in of_growth if line.value is None} == {
        f"{what}, on 10,000,000 rows" for what, (target, _) in growth.TARGETS.items() if target
    }
    assert all(line.value is not None for line in lines)
    detail = {line.what: line.detail for line in lines}
    assert detail["CSV of a user's transactions"] == "of 120 rows"
    [exponent] = [line for line in of_growth if line.what == "Start page, cold, exponent"]
    assert exponent.detail.startswith("1.2k: ")
    assert ", 2.4k: " in exponent.detail


def test_the_filled_history_can_be_continued_and_keeps_its_guards(of_template: None) -> None:
    with database.fresh_database(DATABASE), connection.cursor() as cursor:
        cursor.execute(_GUARDS)
        before = cursor.fetchall()
        filled = fill(1_200)
        cursor.execute(_GUARDS)
        assert cursor.fetchall() == before
        cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE b.last_number = t.number) "
            "FROM billing_transaction t JOIN billing_balance b USING (user_id)"
        )
        assert cursor.fetchone() == (1_200, 23)
        ways.by_ledger(filled.long.pk)
        assert ledger.balance(filled.long.pk).real == 10 * filled.of_long + ways.AMOUNT


_GUARDS = """
    SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE conrelid = 'billing_transaction'::regclass AND contype <> 'f'
    UNION ALL SELECT tgname, tgenabled::text FROM pg_trigger
        WHERE tgrelid = 'billing_transaction'::regclass AND NOT tgisinternal
    UNION ALL SELECT 'index', pg_get_indexdef(indexrelid) FROM pg_index
        WHERE indrelid = 'billing_transaction'::regclass
    ORDER BY 1, 2
"""


def test_each_statement_whose_instructions_are_counted_can_be_executed(of_template: None) -> None:
    with database.fresh_database(DATABASE):
        user_ids = database.make_users(2 * instructions.MORE)
        found = instructions.statements(user_ids)
        for name, way in found.items():
            fewest = instructions.MORE_BATCHES if "entries" in way else instructions.MORE
            assert len(way["calls"]) == fewest, name
            with connection.cursor() as cursor:
                if "prepared" in way:
                    cursor.execute(way["prepared"], way["calls"][0])
                else:
                    cursor.execute(way["calls"][0])
    assert {instructions.BARE, instructions.SINGLE, instructions.BONUS} <= set(found)


def test_a_verdict_says_by_how_much_a_target_is_missed() -> None:
    line = Line(what="Rate", shown="", value=0.35, target="≥ 0.7")
    assert line.verdict == "**missed** by 50%"
    assert replace(line, value=0.7).verdict == "met"
    assert replace(line, value=None).verdict == "not measured"
    assert replace(line, target="").verdict == ""
    most = Line(what="Time", shown="", value=300, target="≤ 200 ms")
    assert most.verdict == "**missed** by 50%"
    assert replace(most, value=200).verdict == "met"
    assert (
        replace(most, value=1_100_001, target="≤ 1,100,000").verdict == "**missed** by less than 1%"
    )


def test_a_run_of_some_parts_replaces_these_alone() -> None:
    def of(**parts: str) -> results.Results:
        return {"18": {"version": "18.6", "parts": parts}}

    both = results.merged(of(posting="old", hot="old"), of(hot="new"))
    assert both["18"]["parts"] == {"posting": "old", "hot": "new"}
    kept = results.merged(both, {"18": results.missing("not found"), "15": results.missing("none")})
    assert kept["18"] == both["18"]
    assert kept["15"]["missing"] == "none"


def test_a_version_that_is_not_installed_is_said_to_be_missing() -> None:
    assert clusters.found(9) is None
    with _cluster(9, None) as cluster:
        assert cluster is None
    assert "PostgreSQL 9: none was found" in page.written({"9": results.missing("none was found")})


def test_the_page_tells_the_command_without_paths_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PGLEDGER_SQL", raising=False)
    given = ["--rounds", "3", "--hordak", "/srv/python", "--scratch", "/srv/x", "--write"]
    assert _command(given) == 'make benchmark ARGS="--rounds 3 --hordak PYTHON --write"'
    monkeypatch.setenv("PGLEDGER_SQL", "/srv/pgledger.sql")
    assert _command(["--write"]) == 'PGLEDGER_SQL=… make benchmark ARGS="--write"'


def test_options_have_the_same_defaults_in_both_processes() -> None:
    assert Options.of(vars(parser().parse_args([]))) == Options()


def test_the_page_lists_what_is_missed_with_what_stands_in_the_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missed = Line(what="Single change", shown="0.35", value=0.35, target="≥ 0.7")
    met = Line(what="Batch", shown="9", value=9, target="≥ 5")
    facts = dict.fromkeys(("version", "date", "load", "processor", "command"), "")
    monkeypatch.setattr(page, "NOTES", {"Single change": "A guard reads it again."})
    found = page.written({
        "18": {
            "version": "18.6",
            "about": "a new cluster",
            "parts": {"posting": results.as_part(facts, [missed, met])},
        }
    })  # fmt: skip
    assert "- Single change: 0.35 on 18, **missed** by 50%. A guard reads it again.\n\n" in found
    assert "| Batch | ≥ 5 | 9 | met |" in found


def test_each_note_names_a_line_of_the_table() -> None:
    found = results.load()
    lines = {
        line.what
        for server in found
        for part in results.PARTS
        for line in results.lines_of(found, server, part)
    }
    assert set(notes.NOTES) <= lines


def test_the_page_is_what_was_measured() -> None:
    assert page.PATH.read_text() == page.written(results.load())
