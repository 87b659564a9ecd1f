"""Vouchers: making and redeeming them."""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from django.conf import settings

from billing import events, ledger, representations
from billing.errors import (
    UnknownVoucher,
    UserDeactivated,
    VoucherExpired,
    VoucherRedeemed,
    VoucherUsedUp,
)
from billing.events import Note
from billing.expiry import end_of_bonus
from billing.models import (
    Channel,
    Event,
    Subject,
    Subscription,
    Transaction,
    Voucher,
    VoucherRedemption,
)
from billing.models.vouchers import CODE_LENGTH, CODE_LETTERS, normalised_code
from billing.operations import configuration
from billing.operations._common import one_transaction, subscription_data
from billing.operations.customers import find_customer
from billing.plans import subscriptions
from users import database
from users.models import User

MADE_AT_ONCE: Final = 1_000
OWN_KEY: Final = "redeemed_voucher:{voucher}"  # in ledger.OWN_KEYS


@dataclass(frozen=True)
class Redeemed:
    """The result: the voucher, its transaction, the subscription and what was charged for it."""

    voucher: Voucher
    transaction: Transaction | None
    subscription: Subscription | None
    charges: Sequence[Transaction]
    event: Event

    @property
    def posted(self) -> list[Transaction]:
        """All transactions, in order."""
        return [*([self.transaction] if self.transaction else []), *self.charges]

    @property
    def sentence(self) -> str:
        return events.sentence(self.event)


# --- Making -------------------------------------------------------------------------------------


def make(
    count: int,
    *,
    series: uuid.UUID | None = None,
    actor: User | None,
    channel: Channel,
    **fields: Any,
) -> list[Voucher]:
    """Makes vouchers that give the same, each with a code of its own.

    `fields` are those of the model. The caller has validated them (`Voucher.full_clean`). If the
    actor has made vouchers of this `series` before, returns those.
    """
    if not 1 <= count <= MADE_AT_ONCE:
        raise ValueError(f"Make 1 to {MADE_AT_ONCE:,} vouchers at once, not {count}.")
    series = series or uuid.uuid4()
    with one_transaction(dry_run=False):
        if actor is not None:
            # The same form, sent twice at once, makes its vouchers once.
            database.lock_row(User.objects.filter(pk=actor.pk), actor.pk)
        if made := list(Voucher.objects.filter(series=series, created_by=actor).order_by("pk")):
            return made
        vouchers = Voucher.objects.bulk_create(
            Voucher(code=code, series=series, created_by=actor, **fields)
            for code in _new_codes(count)
        )
        changes = [
            {"field": name, "before": None, "after": value}
            for name, value in configuration.values(vouchers[0]).items()
        ]
        events.record_all(
            [
                Note(Subject.VOUCHER, each.pk, "configured", {"changes": changes})
                for each in vouchers
            ],
            actor=actor,
            channel=channel,
        )
    return vouchers


def _new_codes(count: int) -> set[str]:
    """Returns codes that no voucher has."""
    codes: set[str] = set()
    while len(codes) < count:
        codes |= {new_code() for _ in range(count - len(codes))}
        codes -= set(Voucher.objects.filter(code__in=codes).values_list("code", flat=True))
    return codes


def new_code() -> str:
    """Returns a random code: 12 of 31 letters and digits, which is some 59 bits."""
    return "".join(secrets.choice(CODE_LETTERS) for _ in range(CODE_LENGTH))


# --- Redeeming ----------------------------------------------------------------------------------


def redeem(
    user_id: int,
    code: str,
    *,
    now: datetime,
    actor: User | None,
    channel: Channel,
    dry_run: bool = False,
) -> Redeemed:
    """Gives a user what a voucher gives: in one transaction, and with the plan's first charge.

    Spaces, hyphens and small letters in `code` do not matter. Raises UnknownUser, UnknownVoucher,
    VoucherRedeemed if this user has redeemed it, VoucherExpired, VoucherUsedUp, UserDeactivated,
    DuplicateUser, ForgottenUser and, if it gives a plan, what `billing.plans.subscriptions.start`
    raises; then nothing is given.
    """
    today = now.astimezone(ZoneInfo(settings.TIME_ZONE)).date()
    with one_transaction(dry_run=dry_run):
        user = find_customer(user_id)
        # The balance first, so that whoever holds a voucher waits for nobody's balance.
        ledger.lock_balances([user.pk])
        ledger.refuse_closed(user.pk)
        voucher = _locked(code, user)
        _refuse_if_over(voucher, today)
        if not User.objects.filter(pk=user.pk, is_active=True).exists():
            raise UserDeactivated(user_id=user.pk)
        posted = _post(voucher, user, today, actor=actor, channel=channel)
        started = None
        if voucher.plan is not None:
            # After the posting, so that the voucher's money can pay for the plan.
            day = now.astimezone(UTC).date()
            started = subscriptions.start(user, voucher.plan, day=day, actor=actor, channel=channel)
        voucher.uses += 1
        voucher.save(update_fields=["uses"])
        VoucherRedemption.objects.create(
            voucher=voucher, user=user, number=posted.number if posted else None, redeemed_at=now
        )
        event = _recorded(voucher, user, posted, started, actor=actor, channel=channel)
    return Redeemed(
        voucher,
        posted,
        started.subscription if started else None,
        started.posted if started else (),
        event,
    )


def _locked(code: str, user: User) -> Voucher:
    """Returns the voucher, locked, so that users who redeem it take turns.

    Raises UnknownVoucher, and VoucherRedeemed whatever has become of the voucher since.
    """
    code = normalised_code(code)
    is_code = len(code) == CODE_LENGTH and set(code) <= set(CODE_LETTERS)
    voucher = database.lock_row(Voucher.objects.filter(code=code), code) if is_code else None
    if voucher is None:
        raise UnknownVoucher
    earlier = VoucherRedemption.objects.filter(user=user, voucher=voucher).first()
    if earlier is not None:
        raise VoucherRedeemed(voucher=voucher.pk, title=voucher.title, number=earlier.number)
    if not voucher.is_active:
        raise UnknownVoucher
    return voucher


def _refuse_if_over(voucher: Voucher, today: date) -> None:
    if voucher.last_day is not None and voucher.last_day < today:
        raise VoucherExpired(
            voucher=voucher.pk, title=voucher.title, day=voucher.last_day.isoformat()
        )
    if voucher.is_used_up:
        raise VoucherUsedUp(voucher=voucher.pk, title=voucher.title, uses=voucher.uses)


def _post(
    voucher: Voucher, user: User, today: date, *, actor: User | None, channel: Channel
) -> Transaction | None:
    """Posts what the voucher gives, as one transaction: a payment, or a gift if it is bonus only.

    None if it gives only a plan.
    """
    given: dict[str, Any] = {
        "description": ledger.shorten_description(f"Voucher: {voucher.title}"),
        "subtype": "voucher",
        "bonus_expires_at": end_of_bonus(_last_day_of_bonus(voucher, today)),
        "metadata": {"voucher": voucher.pk},
        # The ledger, too, posts it only once for this user.
        "idempotency_key": OWN_KEY.format(voucher=voucher.pk),
        "actor": actor,
        "channel": channel,
    }
    if voucher.amount:
        posted = ledger.change_balance(
            user, amount=voucher.amount, bonus_amount=voucher.bonus, **given
        )
    elif voucher.bonus:
        posted = ledger.give_bonus(user, amount=voucher.bonus, **given)
    else:
        return None
    if posted.replayed:  # redeemed, though its redemption is missing
        raise VoucherRedeemed(voucher=voucher.pk, title=voucher.title, number=posted.number)
    return posted


def _last_day_of_bonus(voucher: Voucher, today: date) -> date | None:
    """Returns the last day of a bonus that is given today; None: it never expires, or is none."""
    if not voucher.bonus:
        return None
    if voucher.bonus_until is not None:
        return voucher.bonus_until
    days = voucher.bonus_days or settings.BONUS_DAYS
    return today + timedelta(days=days) if days else None


def _recorded(
    voucher: Voucher,
    user: User,
    posted: Transaction | None,
    started: subscriptions.Changed | None,
    *,
    actor: User | None,
    channel: Channel,
) -> Event:
    until = posted and posted.bonus_expires_at
    rows = [*([posted] if posted else []), *(started.posted if started else ())]
    return events.record(
        Subject.USER,
        user.pk,
        "voucher_redeemed",
        actor=actor,
        channel=channel,
        voucher={"id": voucher.pk, "title": voucher.title},
        amount=str(voucher.amount) if voucher.amount else None,
        bonus=str(voucher.bonus) if voucher.bonus else None,
        bonus_expires_at=until and representations.moment(until),
        subscription=started and subscription_data(started.subscription, started.posted),
        transactions=[row.number for row in rows],
    )
