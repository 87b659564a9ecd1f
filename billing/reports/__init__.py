"""Reads what pages and programs show: lists of transactions, totals, charts, histories, runs."""

from billing.reports.complete import LONGEST_TRANSACTION, complete_until
from billing.reports.following import (
    Slice,
    slice_of_all,
    slice_of_user,
)
from billing.reports.grants import grant_of, grants_used, spendable_grants, uses_of
from billing.reports.history import Before, HistoryEntry, HistoryPage, history_of
from billing.reports.listing import Choices, Listing, TooSlow, choices, time_limit
from billing.reports.overview import overview
from billing.reports.pages import (
    PAGE_SIZE,
    Cursor,
    Page,
    count,
    cursor_at,
    in_chunks,
    latest,
    page,
    page_by_id,
    tie_reversals,
)
from billing.reports.places import Place
from billing.reports.proofs import PROOF_STALE_AFTER, ProofState, proof_state
from billing.reports.runs import (
    RUN_MAY_TAKE,
    SILENCE,
    charging_runs,
    last_progress_at,
    latest_run,
    overdue,
    runs_of_day,
    state_of,
)
from billing.reports.subscriptions import SubscriptionListing, subscriptions_with, was_charged
from billing.reports.sums import (
    BothTurnovers,
    Day,
    ReasonSums,
    Turnover,
    balance_points,
    by_reason,
    has_reasons,
    holdings,
    totals,
    turnover,
    turnover_by_day,
)

__all__ = [
    "LONGEST_TRANSACTION",
    "PAGE_SIZE",
    "PROOF_STALE_AFTER",
    "RUN_MAY_TAKE",
    "SILENCE",
    "Before",
    "BothTurnovers",
    "Choices",
    "Cursor",
    "Day",
    "HistoryEntry",
    "HistoryPage",
    "Listing",
    "Page",
    "Place",
    "ProofState",
    "ReasonSums",
    "Slice",
    "SubscriptionListing",
    "TooSlow",
    "Turnover",
    "balance_points",
    "by_reason",
    "charging_runs",
    "choices",
    "complete_until",
    "count",
    "cursor_at",
    "grant_of",
    "grants_used",
    "has_reasons",
    "history_of",
    "holdings",
    "in_chunks",
    "last_progress_at",
    "latest",
    "latest_run",
    "overdue",
    "overview",
    "page",
    "page_by_id",
    "proof_state",
    "runs_of_day",
    "slice_of_all",
    "slice_of_user",
    "spendable_grants",
    "state_of",
    "subscriptions_with",
    "tie_reversals",
    "time_limit",
    "totals",
    "turnover",
    "turnover_by_day",
    "uses_of",
    "was_charged",
]
