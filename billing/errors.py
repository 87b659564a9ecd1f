"""All reasons for refusing an operation, as one family of exceptions.

Each has a stable `code` for programs, a sentence for people (`str(error)`) and figures in `data`.
HTTP statuses and form fields are the business of the channels.
"""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar

from billing.descriptions import LENGTHS
from billing.money import format_money


class BillingError(Exception):
    """An operation was refused. Nothing was posted or changed."""

    code: ClassVar[str]
    sentence: ClassVar[str]
    further_figures: ClassVar[tuple[str, ...]] = ()  # in `data`, but not in the sentence

    def __init__(self, **data: Any) -> None:
        self.data: dict[str, Any] = data
        super().__init__(self.describe())

    def describe(self) -> str:
        return self.sentence.format_map(self.data)


class InvalidAmount(BillingError):
    """Not an amount of money, or not a valid one for this operation.

    `data`: `field` (amount or bonus_amount), `reason` (a key of `sentences`) and `value`.
    """

    code = "invalid_amount"
    further_figures = ("field", "reason")
    sentences: ClassVar[Mapping[str, str]] = {
        "not_a_number": "This is not a number: {value}.",
        "too_many_decimals": "An amount has at most four decimals: {value}.",
        "out_of_range": "An amount has at most 15 digits before the decimal point: {value}.",
        "wrong_sign": "This operation cannot have the amount {value}.",
    }

    def describe(self) -> str:
        return self.sentences[self.data["reason"]].format_map(self.data)


class NothingToChange(BillingError):
    code = "nothing_to_change"
    sentence = "Nothing would change: both amounts are zero."


class FreeOfCharge(NothingToChange):
    """The use of a service is free, so it counts as paid. `data` has the fields of a quote."""

    sentence = "This costs nothing under the plan {plan}, so there is nothing to charge."


class InvalidDescription(BillingError):
    code = "invalid_description"
    sentence = f"A description has {LENGTHS}."


class InvalidEntry(BillingError):
    """Another field of an entry is invalid: `field` names it, `reason` says why."""

    code = "invalid_entry"
    sentence = "The field {field} is not valid: {reason}."


class UnknownUser(BillingError):
    code = "unknown_user"
    sentence = "There is no user with ID {user_id}."


class UnknownPlan(BillingError):
    code = "unknown_plan"
    sentence = "There is no plan with ID {plan_id}."


class UnknownSubscription(BillingError):
    code = "unknown_subscription"
    sentence = "The user has no subscription with ID {subscription_id}."


class EmailTaken(BillingError):
    code = "email_taken"
    sentence = "Another user has this e-mail address."


class UnknownTransaction(BillingError):
    code = "unknown_transaction"
    sentence = "The user has no transaction number {number}."


class UnknownGrant(BillingError):
    code = "unknown_grant"
    sentence = "Of a gift with the number {number}, the user has nothing left."


class InsufficientFunds(BillingError):
    """`needed` and `available` are amounts of `balance`: real, bonus, or any (both together)."""

    code = "insufficient_funds"
    further_figures = ("balance",)
    sentences: ClassVar[Mapping[str, str]] = {
        "real": "Not enough money on the balance: {needed} needed, {available} available.",
        "bonus": "Not enough money on the bonus balance: {needed} needed, {available} available.",
        "any": "Not enough money on both balances together: {needed} needed, "
        "{available} available.",
    }

    def describe(self) -> str:
        figures = {k: format_money(Decimal(self.data[k])) for k in ("needed", "available")}
        return self.sentences[self.data["balance"]].format_map(figures)


class BalanceOutOfRange(BillingError):
    """`balance` (real or bonus) would exceed what the database can store."""

    code = "balance_out_of_range"
    further_figures = ("balance",)
    sentence = "The new balance would have more than 15 digits before the decimal point."


class ClockBehind(BillingError):
    """The database's clock is more than a day behind the user's last transaction."""

    code = "clock_behind"
    sentence = (
        "The database's clock is wrong: it says {clock}, but the user's last transaction was "
        "posted at {last_at}. Nothing was posted. Correct the clock and try again."
    )


class BalanceMoved(BillingError):
    """The user's last transaction is not the one that the caller knew of (`expected_number`)."""

    code = "balance_moved"
    further_figures = ("balance", "bonus")
    sentence = (
        "Another transaction came in meanwhile: the last one is number {number}, "
        "not {expected_number}."
    )


class IdempotencyConflict(BillingError):
    """The key was used for something else: transaction `number` of this user."""

    code = "idempotency_conflict"
    sentence = "This idempotency key belongs to transaction number {number}, with other content."


class KeyUsed(IdempotencyConflict):
    """Like its parent, for a call whose effect is not one transaction: there is no `number`."""

    sentence = "This idempotency key was used for the same call before, with other content."


class AnswerForgotten(IdempotencyConflict):
    """The key was used for this call so long ago that the answer is deleted."""

    sentence = (
        "This idempotency key was used for the same call on {day}; its response is no longer "
        "stored. Nothing was done now."
    )


class AlreadyReversed(BillingError):
    code = "already_reversed"
    sentence = "Transaction number {number} was already reversed by number {reversed_by}."


class AlreadyPaidBack(BillingError):
    """`amount` of a subscription's charge was paid back on a change of plan or a cancellation."""

    code = "already_paid_back"
    sentence = (
        "{amount} of transaction number {number} was already paid back by number "
        "{paid_back_by}; a reversal would pay it twice."
    )

    def describe(self) -> str:
        return self.sentence.format_map(
            self.data | {"amount": format_money(Decimal(self.data["amount"]))}
        )


class RefundTooLarge(BillingError):
    """More was to be taken back of a transaction than its earlier reversals have `left`."""

    code = "refund_too_large"
    sentence = "Of transaction number {number}, {left} is left to take back, not {amount}."


class InvalidPaymentDate(BillingError):
    code = "invalid_payment_date"
    sentence = "The payment date {payment_date} is in the future or before 2000."


class UnknownReason(BillingError):
    code = "unknown_reason"
    sentence = "There is no reason with the code {reason}."


class ReasonRefused(BillingError):
    """The change does not fit its reason: `why` is a key of `sentences`."""

    code = "reason_refused"
    further_figures = ("reason", "why")
    sentences: ClassVar[Mapping[str, str]] = {
        "retired": "“{label}” is no longer used as a reason.",
        "type": "Only balance changes, gifts and reversals have a reason.",
        "real_only": "“{label}” is for the real balance only.",
        "bonus_only": "“{label}” is for the bonus balance only.",
        "adds_only": "“{label}” only adds to a balance.",
        "takes_only": "“{label}” only takes from a balance.",
        "fields": "Fill in what stands in braces in the description of “{label}”.",
        "comment": "“{label}” needs a comment: say more in the description.",
    }

    def describe(self) -> str:
        return self.sentences[self.data["why"]].format_map(self.data)


class UnknownBatch(BillingError):
    code = "unknown_batch"
    sentence = "There is no batch {batch}."


class BatchReversed(BillingError):
    code = "batch_reversed"
    sentence = "Nothing is left of batch {batch} to reverse."


class UnknownVoucher(BillingError):
    """Also for a voucher that is not active, so that refusals tell nothing about such codes.

    The code is not in `data`, because it is a secret.
    """

    code = "unknown_voucher"
    sentence = "There is no voucher with this code, or it is no longer active."


class VoucherExpired(BillingError):
    code = "voucher_expired"
    further_figures = ("voucher",)
    sentence = "The voucher “{title}” could be redeemed until {day}."


class VoucherUsedUp(BillingError):
    code = "voucher_used_up"
    further_figures = ("voucher", "uses")
    sentence = "The voucher “{title}” has been redeemed as often as it can be."


class VoucherRedeemed(BillingError):
    """This user has redeemed the voucher before. `number` is None if it gave only a plan."""

    code = "voucher_redeemed"
    further_figures = ("voucher",)
    sentences: ClassVar[Mapping[str, str]] = {
        "posted": "The user has already redeemed the voucher “{title}”: "
        "transaction number {number}.",
        "plan": "The user has already redeemed the voucher “{title}”.",
    }

    def describe(self) -> str:
        given = "plan" if self.data["number"] is None else "posted"
        return self.sentences[given].format_map(self.data)


class ReasonRequired(BillingError):
    """Operators have to choose a reason: the setting REASON_REQUIRED."""

    code = "reason_required"
    sentence = "Choose a reason; this installation requires one."


class InvalidExpiry(BillingError):
    """`reason` says why: the expiry is past or too far ahead, or the operation adds no bonus."""

    code = "invalid_expiry"
    further_figures = ("reason",)
    sentences: ClassVar[Mapping[str, str]] = {
        "past": "The bonus would have expired already.",
        "too_far": "A bonus expires by the end of the year 9000, or never.",
        "no_bonus": "An expiry needs an amount that is added to the bonus balance.",
    }

    def describe(self) -> str:
        return self.sentences[self.data["reason"]]


class NotReversible(BillingError):
    code = "not_reversible"
    sentence = "Transaction number {number} is a reversal or an expiry; change the balance instead."


class NotMovable(BillingError):
    code = "not_movable"
    sentence = "Transaction number {number} is no payment; only payments and gifts are moved."


class SameUser(BillingError):
    code = "same_user"
    sentence = "The transaction is already of the user with ID {user_id}."


class OwnDuplicate(SameUser):
    sentence = "The user with ID {user_id} cannot be a duplicate of the same user."


class InvalidQuantity(BillingError):
    """`reason` is a key of `sentences`; `value` is the given text."""

    code = "invalid_quantity"
    further_figures = ("reason",)
    sentences: ClassVar[Mapping[str, str]] = {
        "not_a_number": "This is not a quantity: {value}.",
        "too_many_decimals": "A quantity has at most six decimals: {value}.",
        "out_of_range": "This quantity is too large: {value}.",
        "wrong_sign": "A quantity must be more than zero: {value}.",
    }

    def describe(self) -> str:
        return self.sentences[self.data["reason"]].format_map(self.data)


class InvalidDay(BillingError):
    code = "invalid_day"
    sentence = "Activity can be recorded for the days from {first} to {last}, not for {day}."


class NoPlan(BillingError):
    """Neither the `device` nor the user has a subscription that prices could come from."""

    code = "no_plan"
    further_figures = ("user_id", "device")
    sentence = "The user has no pricing plan, so services have no price."


class UnknownService(BillingError):
    code = "unknown_service"
    sentence = "There is no service “{service}”."


class ServiceNotAvailable(BillingError):
    code = "service_not_available"
    sentence = "The plan {plan} does not offer the service {service}."


class ServiceRetired(BillingError):
    code = "service_retired"
    sentence = "The service {service} is retired."


class PlanRetired(BillingError):
    code = "plan_retired"
    sentence = "The plan {plan} is retired and takes no new subscriptions."


class SamePlan(BillingError):
    code = "same_plan"
    sentence = "The subscription is already on this plan: {plan}."


class UserDeactivated(BillingError):
    code = "user_deactivated"
    further_figures = ("user_id",)
    sentence = "The user is deactivated."


class KeptUserDeactivated(UserDeactivated):
    """A user was to be marked as a duplicate of one who is deactivated."""

    sentence = "The user with ID {user_id} is deactivated, and takes over nothing."


class DuplicateUser(BillingError):
    """The user is marked as a duplicate of another, `duplicate_of`, who has all the money."""

    code = "duplicate_user"
    sentence = "User {user_id} is a duplicate. The user who is kept has the ID {duplicate_of}."


class ForgottenUser(BillingError):
    code = "forgotten_user"
    sentence = "The user with ID {user_id} was forgotten: the personal data was erased."


class NotClosed(BillingError):
    """A user was to be forgotten who still has something.

    `data`: `is_active`, the balances `real` and `bonus`, and how many `subscriptions` have not
    ended.
    """

    code = "not_closed"
    further_figures = ("user_id", "is_active", "real", "bonus", "subscriptions")
    sentence = "The user cannot be forgotten yet."

    def describe(self) -> str:
        real, bonus = (Decimal(self.data[name]) for name in ("real", "bonus"))
        count = self.data["subscriptions"]
        reasons = [
            "the user is active" if self.data["is_active"] else "",
            f"the balance is {format_money(real)}" if real else "",
            f"the bonus balance is {format_money(bonus)}" if bonus else "",
            "a subscription has not ended" if count == 1 else "",
            f"{count} subscriptions have not ended" if count > 1 else "",
        ]
        return f"{self.sentence.removesuffix('.')}: {'; '.join(filter(None, reasons))}."


class SubscriptionExists(BillingError):
    """`device` already has a subscription; if empty, the user's account has one."""

    code = "subscription_exists"
    further_figures = ("subscription",)
    sentences: ClassVar[Mapping[str, str]] = {
        "device": "Device {device} already has a subscription, to the plan {plan}.",
        "user": "The user already has a subscription, to the plan {plan}.",
    }

    def describe(self) -> str:
        whose = "device" if self.data["device"] else "user"
        return self.sentences[whose].format_map(self.data)


class SubscriptionSuspended(BillingError):
    code = "subscription_suspended"
    further_figures = ("device", "reason")
    sentence = "The subscription to the plan {plan} is suspended {until}, and its services with it."


class SubscriptionCancelled(BillingError):
    code = "subscription_cancelled"
    sentence = "This subscription was cancelled on {day}."


ERRORS_BY_CODE: Mapping[str, type[BillingError]] = {
    kind.code: kind for kind in BillingError.__subclasses__()
}


def refusal_from(details: str) -> BillingError:
    """Returns the error that the posting function reported as JSON: a code and figures."""
    data = json.loads(details)
    return ERRORS_BY_CODE[data.pop("code")](**data)
