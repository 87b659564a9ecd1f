"""What was so at a moment that has passed: a user's real balance, whether the user was active, and
what plans cost.

A charging run that comes late asks for each day that was missed what the run of that day would
have found. What it finds is kept by the database when it happens: the ledger's rows carry their
moments, and triggers note activations and what plans cost (`billing.models.moments`). A moment that
equals that of a change is after it.

Nothing here reads a clock. All of it reads only.
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
    """Real money came in (`amount` above zero) or went out, other than for a subscription."""

    at: datetime
    amount: Decimal


class Activated(NamedTuple):
    """The user was activated or, not `is_active`, deactivated."""

    at: datetime
    is_active: bool


class Account:
    """A user's money and activity at any moment up to now, as a list of changes tells them."""

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
        # Of the moment after each change: the least that was there from then on.
        least, left = [real], real
        for change in reversed(moved):
            left -= change.amount
            least.append(min(least[-1], left))
        self._least = least[::-1]

    def real(self, when: datetime) -> Decimal:
        """What could be taken at `when`: what was there, unless it was spent since."""
        return self._least[bisect_right(self._moved_at, when)]

    def is_active(self, when: datetime) -> bool:
        """Until a change, the user is the opposite of what it makes of the user."""
        place = bisect_right(self._activated_at, when)
        if place == len(self._activated):
            return self._is_active
        return not self._activated[place].is_active


class Past:
    """What decides whether one user can pay for what falls due up to the end of a day, `until`.

    `real` and `is_active` are those of now, and what moved and when the user was activated is all
    that happened since the first moment that anybody asks about, in order. Charges of subscriptions
    are none of it: those are what is being reckoned. `spent` is what was charged so far.
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
        """What happened after `until` had not happened by then."""
        return Account(
            self._real,
            is_active=self._is_active,
            moved=self._moved,
            activated=self._activated,
        )

    @cached_property
    def known(self) -> Account:
        """What happened after `until` counts as if it had always been so."""
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
    """What plans cost at any moment, from what they cost now and how that changed."""

    def __init__(self, versions: Mapping[int, Sequence[Version]] | None = None) -> None:
        self._versions = versions or {}

    def terms(self, plan: Plan, when: datetime, *, until: datetime | None = None) -> Terms:
        """What `plan` asked for at `when`. Changes after `until` count as if there were none."""
        versions = self._versions.get(plan.pk, ())
        place = bisect_right(versions, when, key=lambda version: version.at)
        if place == len(versions) or (until is not None and versions[place].at > until):
            return plan.terms
        return versions[max(0, place - 1)].terms

    def changes(self, plan: Plan) -> list[datetime]:
        """When `plan` began to cost something else."""
        return [version.at for version in self._versions.get(plan.pk, ())[1:]]


# --- Reading it ---------------------------------------------------------------------------------


def pasts(
    real: Mapping[int, Decimal], since: Mapping[int, datetime], until: datetime
) -> dict[int, Past]:
    """By user: what happened after the moment that `since` says. `real` is what they have now."""
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
        # Mostly nothing has happened since, which the balance's row tells.
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
