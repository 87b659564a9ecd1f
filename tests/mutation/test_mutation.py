"""Tests of `make mutation` itself."""

import ast
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from billing.plans import history, pricing
from billing.plans.pricing import next_period
from tests.mutation import explanations, running, targets
from tests.mutation.__main__ import _report
from tests.mutation.mutants import ROOT, Key, Mutant, mutants_of
from tests.mutation.running import Verdict

PYTHON = '''
PER_YEAR = 12

def payable(amount: int, limit: int = 5, *, is_open: bool) -> int:
    """Not 7."""
    if amount < limit and is_open:
        raise ValueError(f"{amount} is 1 too low")
    rows = Row.objects.filter(user=amount, kind="own").select_for_update()
    rows.delete()
    return amount + 1
'''
SQL = """-- Not 7.
CREATE OR REPLACE FUNCTION public.billing_example(a numeric)
 RETURNS boolean
 LANGUAGE plpgsql
AS $function$
BEGIN
    IF a NOT BETWEEN 0 AND 9 AND a IS NOT NULL THEN
        PERFORM FROM b WHERE x = 'own' AND y = 1 FOR NO KEY UPDATE;
    END IF;
    RETURN least(a, 5) > 0;
END
$function$;
"""


def afters(file: str, source: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for mutant in mutants_of(file, source):
        found.setdefault(mutant.key.before, set()).add(mutant.key.after)
    return found


def test_python_is_changed_in_what_it_does_and_not_in_what_it_says() -> None:
    assert afters("example.py", PYTHON) == {
        "if amount < limit and is_open:": {
            "if amount <= limit and is_open:",
            "if amount >= limit and is_open:",
            "if amount < limit or is_open:",
            "if True and is_open:",
            "if amount < limit and True:",
            "if True:",
            "if False:",
            "if not (amount < limit and is_open):",
        },
        'raise ValueError(f"{amount} is 1 too low")': {"pass"},
        'rows = Row.objects.filter(user=amount, kind="own").select_for_update()': {
            'rows = Row.objects.filter(kind="own").select_for_update()',
            "rows = Row.objects.filter(user=amount, ).select_for_update()",
            'rows = Row.objects.filter(user=amount, kind="own_").select_for_update()',
            'rows = Row.objects.filter(user=amount, kind="own")',
        },
        "rows.delete()": {"pass"},
        "return amount + 1": {
            "return None",
            "return amount - 1",
            "return amount + 2",
            "return amount + (0)",
        },
    }


def test_sql_is_changed_in_what_it_does_and_not_in_its_comments() -> None:
    found = afters("example.sql", SQL)
    condition = "IF a NOT BETWEEN 0 AND 9 AND a IS NOT NULL THEN"
    assert {
        "IF a BETWEEN 0 AND 9 AND a IS NOT NULL THEN",
        "IF a NOT BETWEEN 0 AND 9 OR a IS NOT NULL THEN",
        "IF a NOT BETWEEN 0 AND 9 AND a IS NULL THEN",
        "IF a NOT BETWEEN 0 AND 9 THEN",
        "IF a IS NOT NULL THEN",
        "IF a NOT BETWEEN 0 AND 10 AND a IS NOT NULL THEN",
    } <= found.pop(condition)
    assert found == {
        "PERFORM FROM b WHERE x = 'own' AND y = 1 FOR NO KEY UPDATE;": {
            "NULL;",
            "PERFORM FROM b WHERE x <> 'own' AND y = 1 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own_' AND y = 1 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' OR y = 1 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE y = 1 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' AND y <> 1 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' AND y = 2 FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' AND y = (0) FOR NO KEY UPDATE;",
            "PERFORM FROM b WHERE x = 'own' AND y = 1 ;",
        },
        "RETURN least(a, 5) > 0;": {
            "RETURN greatest(a, 5) > 0;",
            "RETURN least(a, 6) > 0;",
            "RETURN least(a, (4)) > 0;",
            "RETURN least(a, 5) >= 0;",
            "RETURN least(a, 5) <= 0;",
            "RETURN least(a, 5) > 1;",
            "RETURN least(a, 5) > (-1);",
        },
    }


@pytest.fixture(scope="module")
def everything() -> list[Mutant]:
    return [mutant for file in targets.files() for mutant in mutants_of(file)]


def test_every_mutant_is_another_text_and_known_by_its_key(everything: list[Mutant]) -> None:
    keys = {mutant.key for mutant in everything}
    assert len(keys) == len(everything) > 1000
    texts = {(mutant.key.file, mutant.text) for mutant in everything}
    assert len(texts) == len(everything)


@pytest.mark.parametrize("file", ["billing/plans/pricing.py", "billing/thresholds.py"])
def test_every_mutant_of_python_can_be_read(file: str) -> None:
    for mutant in mutants_of(file):
        ast.parse(mutant.text)


def test_nearly_every_mutant_of_a_function_can_be_installed(db: None) -> None:
    refused = []
    mutants = mutants_of("billing/sql/functions/billing_tell_of_transactions.sql")
    for mutant in mutants:
        try:
            with transaction.atomic(), connection.cursor() as cursor:
                cursor.execute(mutant.text)
        except Exception:
            refused.append(str(mutant))
    assert len(refused) <= len(mutants) / 10, "\n".join(refused)


def test_a_key_does_not_depend_on_where_a_line_stands() -> None:
    moved = "\n\n# more\n" + PYTHON.replace("    ", "  ")
    keys = [mutant.key for mutant in mutants_of("example.py", PYTHON)]
    assert [mutant.key for mutant in mutants_of("example.py", moved)] == keys


# --- Targets and explanations -------------------------------------------------------------------


def test_every_database_function_has_its_tests_or_has_no_part_in_money() -> None:
    there = {str(file.relative_to(ROOT)) for file in (ROOT / targets.FUNCTIONS).glob("*.sql")}
    mutated = [file for file in targets.files() if file.endswith(".sql")]
    assert {*mutated, *targets.WITHOUT_MONEY} == there
    assert len(set(targets.files())) == len([*targets.files()])
    for target in targets.TARGETS.values():
        assert all((ROOT / file).is_file() for file in (*target.files, *target.tests))


def test_every_explanation_has_its_mutant_and_a_reason(everything: list[Mutant]) -> None:
    assert explanations.problems(explanations.read(), everything) == []


def test_an_explanation_without_mutant_or_reason_is_an_error() -> None:
    mutants = mutants_of("example.py", PYTHON)
    kept = explanations.Explanation(mutants[0].key, "Equal.")
    gone = explanations.Explanation(mutants[0].key._replace(after="another"), "Equal.")
    empty = explanations.Explanation(mutants[1].key, "")
    assert explanations.problems([kept], mutants) == []
    for wrong in (gone, empty):
        assert len(explanations.problems([kept, wrong], mutants)) == 1
    assert len(explanations.problems([kept, kept], mutants)) == 1


def test_an_explanation_is_read_whole() -> None:
    table = (
        "[[mutant]]\nfile = 'a.py'\nfunction = 'f'\nbefore = 'x'\nafter = ''\nnth = 2\nwhy = 'So.'"
    )
    assert explanations.read(table) == [(Key("a.py", "f", "x", "", 2), "So.")]
    with pytest.raises(KeyError):
        explanations.read(table.replace("why", "because"))
    with pytest.raises(tomllib.TOMLDecodeError):
        explanations.read("[[mutant]")


@pytest.mark.parametrize(
    ("kinds", "explained", "status"),
    [
        (["noticed"] * 20, [], 0),
        (["noticed"] * 19 + ["survived"], [19], 0),
        (["noticed"] * 19 + ["survived"], [], 1),  # unexplained
        (["noticed"] * 20, [3], 1),  # explained, and noticed
        (["noticed"] * 17 + ["survived"] * 3, [17, 18, 19], 1),  # too many
        (["noticed"] * 18 + ["hangs", "untested"], [19], 0),
        (["noticed"] * 18 + ["hangs", "untested"], [18, 19], 1),
    ],
)
def test_the_command_fails_for_each_reason(
    kinds: list[str], explained: list[int], status: int
) -> None:
    mutant = mutants_of("example.py", PYTHON)[0]
    verdicts = [
        Verdict(replace(mutant, key=mutant.key._replace(nth=nth)), kind, "test", 1.0, 1)
        for nth, kind in enumerate(kinds)
    ]
    keys = [verdict.mutant.key for verdict in verdicts]
    reasons = {keys[place]: "Equal." for place in explained}
    assert _report(verdicts, set(keys), reasons, []) == status


# --- Trying mutants -----------------------------------------------------------------------------


def one(file: str, before: str, after: str) -> Mutant:
    [mutant] = [m for m in mutants_of(file) if (m.key.before, m.key.after) == (before, after)]
    return mutant


@pytest.fixture
def restored() -> Any:
    code = pricing.next_period.__code__
    yield
    pricing.next_period.__code__ = code


def test_a_mutant_takes_the_place_of_a_function_for_whoever_imported_it(restored: None) -> None:
    line = "return month_end(day) + timedelta(days=1)"
    mutant = one("billing/plans/pricing.py", line, "return month_end(day) - timedelta(days=1)")
    assert next_period(date(2026, 4, 7), "monthly") == date(2026, 5, 1)
    assert running.install(mutant) == ""
    assert next_period(date(2026, 4, 7), "monthly") == date(2026, 4, 29)


def test_lines_are_watched_below_every_decorator() -> None:
    names = {code.co_name for code in running._codes_of(history, history.__file__)}
    assert {"known", "real", "changes", "pasts"} <= names, "cached, of a class, plain"


TRY_TWO = """
from dataclasses import replace
from tests.mutation import running, targets
from tests.mutation.mutants import mutants_of

file, line = "billing/plans/pricing.py", "return day + timedelta(days=1)"
targets.TARGETS["pricing"] = targets.Target((file,), ("tests/billing/test_pricing.py",))
bad = [m for m in mutants_of(file) if m.key.before == line and "day - " in m.key.after]
same = [replace(m, text=m.text.replace("day - timedelta", "+day.resolution + day - 0 * timedelta"))
        for m in bad]
verdicts = []
problems = running.run([*bad, *same], tell=verdicts.append, say=lambda _: None)
print("RESULT", [verdict.kind for verdict in verdicts], problems)
"""


def test_a_bad_mutant_is_noticed_and_an_equal_one_survives(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY_TWO],
        cwd=ROOT,
        env=os.environ | {"DATA_DIR": str(tmp_path / "var")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RESULT ['noticed', 'survived'] []" in done.stdout, done.stdout + done.stderr
