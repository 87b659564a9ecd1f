"""The files that are mutated, and the tests that could notice, the most specific ones first.

No list contains the tests that compare the text of a database function with its file. They would
notice every change, even one without an effect.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

FUNCTIONS: Final = "billing/sql/functions/"

LEDGER_TESTS: Final = (
    "tests/billing/test_ledger.py",
    "tests/billing/test_ledger_guards.py",
    "tests/billing/test_service_charges.py",
    "tests/billing/test_ledger_digests.py",
    "tests/billing/test_ledger_clock.py",
    "tests/billing/test_ledger_model.py",
    "tests/billing/test_ledger_races.py",
    "tests/billing/test_grants.py",
    "tests/billing/test_reasons.py",
    "tests/billing/test_batches.py",
)
# Tests of callers. Like all tests of Python code, they are run only if they run a changed line.
LEDGER_CALLERS_TESTS: Final = (
    "tests/billing/test_charging.py",
    "tests/api/rest/test_balance_changes.py",
    "tests/api/rest/test_service_charges.py",
    "tests/api/rest/test_repeats.py",
    "tests/api/panel/test_transactions.py",
    "tests/billing/test_change_balance_page.py",
    "tests/billing/test_transactions_page.py",
    "tests/billing/test_vouchers.py",
    "tests/config/test_limits.py",
    "tests/config/test_metrics.py",
)
WEBHOOK_TESTS: Final = ("tests/billing/test_webhooks.py",)
CHARGING_CALLERS_TESTS: Final = (
    "tests/api/rest/test_subscriptions.py",
    "tests/api/rest/test_active_days.py",
    "tests/billing/test_subscriptions_page.py",
    "tests/billing/test_charging_page.py",
)
CHARGING_TESTS: Final = (
    "tests/billing/test_due.py",
    "tests/billing/test_charging.py",
    "tests/billing/test_charge_due.py",
    "tests/billing/test_subscriptions.py",
    "tests/billing/test_plan_guards.py",
    "tests/billing/test_tasks.py",
    "tests/billing/test_late_runs.py",
    "tests/billing/test_charging_races.py",
    "tests/billing/test_late_runs_of_any_history.py",
)


class Target(NamedTuple):
    files: tuple[str, ...]
    tests: tuple[str, ...]


def _functions(*names: str) -> tuple[str, ...]:
    return tuple(f"{FUNCTIONS}billing_{name}.sql" for name in names)


TARGETS: Final[dict[str, Target]] = {
    "ledger": Target(
        (
            "billing/ledger/entries.py",
            "billing/ledger/balances.py",
            "billing/ledger/posting.py",
            "billing/plans/services.py",
        ),
        LEDGER_TESTS + LEDGER_CALLERS_TESTS,
    ),
    "ledger-sql": Target(
        _functions(
            "post",
            "write",
            "expiry",
            "use_grant",
            "check_grant",
            "set_expiry",
            "refuse_rewriting_grants",
            "amount_problem",
            "reason_problem",
            "type_allows",
            "continue_history",
            "canonical",
            "check_transaction",
            "check_balance",
            "digest",
            "hold",
            "number_at",
            "open_balance",
            "refuse_balance_removal",
            "refuse_rewriting_history",
        ),
        LEDGER_TESTS,
    ),
    "pricing": Target(
        ("billing/plans/pricing.py",),
        ("tests/billing/test_pricing.py", "tests/billing/test_service_charges.py"),
    ),
    "thresholds": Target(
        ("billing/thresholds.py",),
        (
            "tests/billing/test_thresholds.py",
            "tests/billing/test_low_balance_pages.py",
            "tests/api/rest/test_thresholds.py",
        ),
    ),
    "webhooks-sql": Target(
        _functions("tell_of_transactions", "tell_of_subscription", "wake_webhooks"),
        WEBHOOK_TESTS,
    ),
    "events-sql": Target(
        _functions(
            *("note_events", "event_digest", "check_event", "refuse_rewriting_events"),
            *("erased", "erased_events", "forget"),
        ),
        ("tests/billing/test_events.py", "tests/billing/test_forgetting.py"),
    ),
    "charging": Target(
        (
            "billing/plans/charging.py",
            "billing/plans/due.py",
            "billing/plans/forecast.py",
            "billing/plans/history.py",
            "billing/plans/posting.py",
            "billing/plans/schedule.py",
            "billing/plans/subscriptions.py",
        ),
        CHARGING_TESTS + CHARGING_CALLERS_TESTS,
    ),
    "charging-sql": Target(
        _functions(
            "queue_resumption",
            "resume_after_activation",
            "refuse_other_code",
            "refuse_other_cycle",
            "note_activation",
            "note_terms",
            "refuse_rewriting_moments",
            "clock",
        ),
        CHARGING_TESTS,
    ),
}
# Database functions that have nothing to do with money.
WITHOUT_MONEY: Final = frozenset(_functions("end_sessions", "count_users"))


def files() -> Iterator[str]:
    for target in TARGETS.values():
        yield from target.files


def tests_of(file: str) -> tuple[str, ...]:
    [tests] = [target.tests for target in TARGETS.values() if file in target.files]
    return tests
