"""Places in lists across users, which are sorted by time and ID."""

from datetime import datetime
from typing import NamedTuple

from django.db.models import Q

from billing.models import Transaction


class Place(NamedTuple):
    """The place of a row in lists across users. ID 0 is before all rows of that moment."""

    created_at: datetime
    id: int


def by_date(row: Transaction | Place, comparison: str) -> Q:
    """Returns a condition that compares (created_at, id) with those of `row`, by their index."""
    strict = comparison.removesuffix("e")
    return Q(**{f"created_at__{strict}e": row.created_at}) & (
        Q(**{f"created_at__{strict}": row.created_at}) | Q(**{f"id__{comparison}": row.id})
    )
