"""The state at a past moment: a user's real balance, whether the user was active, and prices.

For each missed day, a late charging run needs what the run of that day would have found. The
database keeps it: transactions have their moments, and triggers record activations and prices
(`billing.models.moments`). A moment equal to that of a change counts as after it.

Nothing here reads a clock or writes.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Final, NamedTuple

from django.db import connection

from billing.models import Activation, Plan, PlanTerms
from billing.money import ZERO
from billing.plans.pricing import Terms

FOREVER: Final = datetime.max.replace(tzinfo=UTC)


class Moved(NamedTuple):
    """Real money came in (`amount` above zero) or went out, except for subscriptions."""

    at: datetime
    amount: Decimal


class Activated(NamedTuple):
    """The user was activated or, not `is_active`, deactivated."""

    at: datetime
    is_active: bool


class Account:
    """A user's money and status at any moment up to now, by a list of changes."""

    def __init__(
        self,
        real: Decimal,
        *,
        is_active: bool,
        moved: Sequence[Moved],
        activated: Sequence[Activated],
    ) -> None:
        self._is_active = is_active
        self._activated = activated
        self._activated_at = [each.at for each in activated]
        self._moved_at = [each.at for each in moved]
        # For the moment after each change: the lowest balance from then on.
        least, left = [real], real
        for change in reversed(moved):
            left -= change.amount
            least.append(min(least[-1], left))
        self._least = least[::-1]

    def real(self, when: datetime) -> Decimal:
        """Returns what could be taken at `when`: the balance then, less what was spent since."""
        return self._least[bisect_right(self._moved_at, when)]

    def is_active(self, when: datetime) -> bool:
        """Returns the status at `when`. Before a change, it is the opposite of the change."""
        place = bisect_right(self._activated_at, when)
        if place == len(self._activated):
            return self._is_active
        return not self._activated[place].is_active


class Past:
    """What decides whether a user can pay for what falls due up to `until`, the end of a day.

    `real` and `is_active` are the present values. The changes are all that happened since the first
    moment that is asked about, in order, without charges of subscriptions, which are being decided.
    `spent` is the sum decided so far.
    """

    def __init__(
        self,
        real: Decimal,
        *,
        is_active: bool = True,
        moved: Sequence[Moved] = (),
        activated: Sequence[Activated] = (),
        until: datetime = FOREVER,
    ) -> None:
        self.spent = ZERO
        self._real, self._is_active = real, is_active
        self._moved, self._activated = moved, activated
        self._moved_by = [m for m in moved if m.at <= until]
        self._activated_by = [a for a in activated if a.at <= until]
        self.changes = sorted(
            [each.at for each in self._moved_by] + [each.at for each in self._activated_by]
        )
        self.retries = sorted(
            [m.at for m in self._moved_by if m.amount > 0]
            + [a.at for a in self._activated_by if a.is_active]
        )

    @cached_property
    def recorded(self) -> Account:
        """The account without what happened after `until`."""
        return Account(
            self._real,
            is_active=self._is_active,
            moved=self._moved,
            activated=self._activated,
        )

    @cached_property
    def known(self) -> Account:
        """The account with everything after `until` taken as if it had been so all the time."""
        return Account(
            self._real,
            is_active=self._is_active,
            moved=self._moved_by,
            activated=self._activated_by,
        )


class Version(NamedTuple):
    at: datetime
    terms: Terms


class Prices:
    """The prices of plans at any moment: the present ones and their changes."""

    def __init__(self, versions: Mapping[int, Sequence[Version]] | None = None) -> None:
        self._versions = versions or {}

    def terms(self, plan: Plan, when: datetime, *, until: datetime | None = None) -> Terms:
        """Returns the terms of `plan` at `when`, ignoring changes after `until`."""
        versions = self._versions.get(plan.pk, ())
        place = bisect_right(versions, when, key=lambda version: version.at)
        if place == len(versions) or (until is not None and versions[place].at > until):
            return plan.terms
        return versions[max(0, place - 1)].terms

    def changes(self, plan: Plan) -> list[datetime]:
        """Returns the moments at which the price of `plan` changed."""
        return [version.at for version in self._versions.get(plan.pk, ())[1:]]


# --- Reading it ---------------------------------------------------------------------------------


def pasts(
    real: Mapping[int, Decimal], since: Mapping[int, datetime], until: datetime
) -> dict[int, Past]:
    """Returns by user what happened after the moment in `since`. `real` holds present balances."""
    users = list(since)
    activated: dict[int, list[Activated]] = defaultdict(list)
    for user_id, at, is_active in (
        Activation.objects.filter(user__in=users)
        .order_by("user", "at", "id")
        .values_list("user", "at", "is_active")
    ):
        activated[user_id].append(Activated(at, is_active))
    moved: dict[int, list[Moved]] = defaultdict(list)
    deactivated: set[int] = set()
    with connection.cursor() as cursor:
        # The balance row shows whether anything happened since; usually nothing did.
        cursor.execute(
            "SELECT t.user_id, t.created_at, t.amount"
            "  FROM unnest(%s::bigint[], %s::timestamptz[]) AS asked (user_id, since)"
            "  JOIN billing_balance b ON b.user_id = asked.user_id AND b.last_at > asked.since"
            "  JOIN LATERAL ("
            "    SELECT billing_number_at(asked.user_id, asked.since) AS number OFFSET 0"
            "  ) seen ON true"
            "  JOIN billing_transaction t ON t.user_id = asked.user_id AND t.number > seen.number"
            "  WHERE t.type <> 'main_charge' AND t.amount <> 0"
            "  ORDER BY t.user_id, t.number",
            [users, [since[user_id] for user_id in users]],
        )
        for user_id, at, amount in cursor.fetchall():
            moved[user_id].append(Moved(at, amount))
        cursor.execute(
            "SELECT id FROM users_user WHERE id = ANY(%s::bigint[]) AND NOT is_active", [users]
        )
        deactivated.update(user_id for (user_id,) in cursor.fetchall())
    return {
        user_id: Past(
            real[user_id],
            is_active=user_id not in deactivated,
            moved=moved.get(user_id, ()),
            activated=activated.get(user_id, ()),
            until=until,
        )
        for user_id in users
    }


def prices(plans: Iterable[Plan]) -> Prices:
    versions: dict[int, list[Version]] = defaultdict(list)
    cycles = {plan.pk: plan.cycle for plan in plans}
    rows = PlanTerms.objects.filter(plan__in=cycles).order_by("plan", "at", "id")
    for plan_id, at, price, proportional in rows.values_list(
        "plan", "at", "price", "proportional_charge"
    ):
        versions[plan_id].append(Version(at, Terms(cycles[plan_id], price, proportional)))
    return Prices(versions)
