"""Checks that docs/ledger.md names everything that the ledger's code has, and nothing else."""

import re
from pathlib import Path

import pytest

from billing import sql
from billing.ledger.rules import BALANCE_RULES, TRANSACTION_RULES, UNIQUE_KEY
from billing.models import Balance, Grant, GrantUse, Transaction, TransactionType
from tests.billing.histories import execute

PAGE = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()


def first_cells(after: str) -> set[str]:
    """Returns the names in the first column of the table that follows this text."""
    table = PAGE.split(after, 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0]
    return {name for line in table.split("\n") for name in re.findall(r"`(\w+)`", cell(line))}


def cell(line: str) -> str:
    return line.strip("|").split("|", 1)[0]


def test_the_columns_of_a_transaction_are_described() -> None:
    described = first_cells("One row of `billing_transaction`")
    assert described == {field.column for field in Transaction._meta.concrete_fields}


def test_the_types_are_described() -> None:
    assert first_cells("a history may add up") == set(TransactionType.values)


@pytest.mark.django_db
def test_the_functions_are_described() -> None:
    [*found] = execute("SELECT proname FROM pg_proc WHERE proname LIKE 'billing\\_%'")
    assert first_cells("**Functions**") == {name for (name,) in found}


def test_the_triggers_are_described() -> None:
    assert first_cells("**Triggers**") == set(sql.triggers())


def test_the_constraints_are_described() -> None:
    declared = {
        constraint.name
        for model in (Transaction, Balance, Grant, GrantUse)
        for constraint in model._meta.constraints
    }
    assert first_cells("**Constraints**") == declared


def test_the_guarantees_that_are_verified_are_named() -> None:
    checked = {rule.guarantee for rule in (*TRANSACTION_RULES, *BALANCE_RULES, UNIQUE_KEY)}
    said = re.search(r"rules in `billing/ledger/rules.py` list: (.*?),? the sums", PAGE)
    assert said is not None
    assert set(re.findall(r"G\d+", said[1])) == checked
