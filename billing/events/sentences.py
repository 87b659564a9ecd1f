"""Sentences of events, made from their actions and data.

Events contain no sentences, so that wordings can be corrected and translated for old events, too.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from django.contrib.admin.models import LogEntry
from django.db import models
from django.utils import timezone
from django.utils.text import capfirst

from billing.models import (
    Event,
    EventType,
    Plan,
    Reason,
    Service,
    Subject,
    Subscription,
    UserDefaults,
    Voucher,
    WebhookEndpoint,
)
from billing.money import format_money
from users.models import User

Data = Mapping[str, Any]


def sentence(event: Event) -> str:
    """Returns what happened, as a sentence with its full stop."""
    if event.action in OF_SUBJECTS:
        return OF_SUBJECTS[event.action](event.data, event.subject)
    return SENTENCES[event.action](event.data)


# --- Users, operators, groups -------------------------------------------------------------------


def _added(data: Data) -> str:
    """ "Added. A bonus of 5.00 was given. Subscribed the user to plan Start; 12.55 charged." """
    parts = ["Added."]
    if data.get("bonus"):
        parts.append(f"A bonus of {_money(data['bonus'])} was given.")
    parts += [_subscribed(each) for each in data.get("subscriptions", [])]
    return " ".join(parts)


def _changed(data: Data) -> str:
    """ "Changed: city, phone." """
    return f"Changed: {', '.join(data['fields'])}."


def _imported(data: Data) -> str:
    """ "Imported from the previous system, where the ID was 371356, with 45 transactions and …" """
    counts = (_counted(data[name], name) for name in ("transactions", "subscriptions"))
    return (
        f"Imported from the previous system, where the ID was {data['id']}, "
        f"with {' and '.join(counts)}."
    )


def _merged_into(data: Data) -> str:
    """ "Marked as a duplicate of user No. 12. Moved there: 10.00 and a bonus of 3.00. …" """
    return " ".join(
        [
            f"Marked as a duplicate of user No. {data['user_id']}.",
            f"Moved there: {_moved(data)}.",
            *_handed_over(data["subscriptions"]),
        ]
    )


def _merged(data: Data) -> str:
    return " ".join(
        [
            f"User No. {data['user_id']} was marked as a duplicate of this user.",
            f"Moved here: {_moved(data)}.",
            *_handed_over(data["subscriptions"]),
        ]
    )


def _moved(data: Data) -> str:
    real, bonus = Decimal(data["real"]), Decimal(data["bonus"])
    parts = [format_money(real)] if real else []
    parts += [f"a bonus of {format_money(bonus)}"] if bonus else []
    return " and ".join(parts) or "no money"


SUBSCRIPTIONS_NAMED: Final = 5


def _handed_over(subscriptions: Sequence[Data]) -> list[str]:
    """Returns a sentence for each subscription or, of many, for those that go on and that ended.

    Such as "Plan Business of device 8617 goes on with the user who is kept."
    """
    ended = [each for each in subscriptions if each["continued_as"] is None]
    if len(subscriptions) > SUBSCRIPTIONS_NAMED:
        paid_back = sum((Decimal(each["paid_back"]) for each in ended), Decimal(0))
        going_on = len(subscriptions) - len(ended)
        return [
            f"{_counted(going_on, 'subscriptions')} of {len(subscriptions):,} go on with the user "
            f"who is kept; of the others, {format_money(paid_back)} was paid back."
        ]
    sentences = []
    for each in subscriptions:
        device = f" of device {each['device']}" if each["device"] else ""
        what = (
            f"ended; {_money(each['paid_back'])} paid back"
            if each in ended
            else "goes on with the user who is kept"
        )
        sentences.append(f"Plan {each['plan']['name']}{device} {what}.")
    return sentences


def _counted(number: int, nouns: str) -> str:
    return f"{number:,} {nouns.removesuffix('s') if number == 1 else nouns}"


# --- Subscriptions ------------------------------------------------------------------------------


def _subscribed(data: Data) -> str:
    """ "Subscribed device 8617 to plan Business; 12.55 charged." """
    who = f"device {data['device']}" if data["device"] else "the user"
    return f"Subscribed {who} to plan {data['plan']['name']}; {_ending(data)}"


def _plan_changed(data: Data) -> str:
    whose = f"of device {data['device']} " if data["device"] else ""
    old, new = data["old_plan"]["name"], data["plan"]["name"]
    return f"Changed the plan {whose}from {old} to {new}; {_ending(data)}"


def _cancelled(data: Data) -> str:
    device = data["device"]
    which = f"the subscription of device {device}" if device else "the user's own pricing plan"
    return f"Cancelled {which}, plan {data['plan']['name']}; {_ending(data)}"


def _ending(data: Data) -> str:
    """ "3.35 paid back, 8.7850 charged." """
    paid_back, charged = Decimal(data["paid_back"]), Decimal(data["charged"])
    parts = [f"{format_money(paid_back)} paid back"] if paid_back else []
    parts += [f"{format_money(charged)} charged"] if charged else []
    parts = parts or ["nothing charged"]
    if data["status"] == Subscription.Status.SUSPENDED:
        reason = Subscription.SuspensionReason(data["suspension_reason"])
        parts.append(f"suspended {reason.label}")
    return f"{', '.join(parts)}."


# --- Gifts --------------------------------------------------------------------------------------


def _grant_expiry_changed(data: Data) -> str:
    """ "The 5.00 left of gift No. 2 expire on 2026-12-31 00:00 UTC (before: never)." """
    after, before = (_expiry(data[name]) for name in ("after", "before"))
    left = _money(data["left"])
    what = f"The {left} left of gift No. {data['number']}"
    then = f"expire {after}" if data["after"] else "never expire"
    return f"{what} {then} (before: {before})."


def _expiry(written: str | None) -> str:
    return "never" if written is None else f"on {_moment(written)}"


# --- Vouchers -----------------------------------------------------------------------------------


def _voucher_redeemed(data: Data) -> str:
    """ "Redeemed the voucher “Spring”: 10.00, a bonus of 5.00. Subscribed the user to …" """
    parts = [_money(data["amount"])] if data["amount"] else []
    parts += [f"a bonus of {_money(data['bonus'])}"] if data["bonus"] else []
    given = f": {' and '.join(parts)}" if parts else ""
    said = f"Redeemed the voucher “{data['voucher']['title']}”{given}."
    return f"{said} {_subscribed(data['subscription'])}" if data["subscription"] else said


# --- Low balance --------------------------------------------------------------------------------


def _threshold(of: Data) -> str:
    amount = of["amount"]
    told = "never" if amount is None else f"below {_money(amount)}"
    return told if of["is_own"] else f"{told}, by default"


def _threshold_changed(data: Data) -> str:
    before, after = _threshold(data["before"]), _threshold(data["after"])
    return f"Low balance: programs are told {after} (before: {before})."


def _default_threshold_changed(data: Data) -> str:
    before, after = ({**data[it], "is_own": True} for it in ("before", "after"))
    return f"By default, programs are told {_threshold(after)} (before: {_threshold(before)})."


# --- What is configured -------------------------------------------------------------------------

# Labels that differ from the model's.
FIELD_LABELS: Final[Mapping[tuple[str, str], str]] = {
    (Subject.USER_DEFAULTS, "bonus"): "Bonus on registration",
    (Subject.PLAN, "cycle"): "Billing cycle",
}
MODELS: Final[Mapping[str, type[models.Model]]] = {
    Subject.PLAN: Plan,
    Subject.SERVICE: Service,
    Subject.REASON: Reason,
    Subject.USER_DEFAULTS: UserDefaults,
    Subject.VOUCHER: Voucher,
    Subject.WEBHOOK_ENDPOINT: WebhookEndpoint,
}
# What fields were called when older events were recorded.
RENAMED: Final[Mapping[tuple[str, str], str]] = {(Subject.REASON, "text"): "template"}


def _configured(data: Data, subject: str) -> str:
    """ "Added. Name: “Business”; Price: 12.55." """
    entered = [
        f"{_label(subject, each)}: {_value(subject, each, 'after')}"
        for each in data["changes"]
        if each["after"] not in (None, "")
    ]
    return f"Added. {'; '.join(entered)}."


def _reconfigured(data: Data, subject: str) -> str:
    """ "Price changed from 12.55 to 13.00; Active changed from yes to no." """
    changes = [
        f"{_label(subject, each)} changed from {_value(subject, each, 'before')} "
        f"to {_value(subject, each, 'after')}"
        for each in data["changes"]
    ]
    return f"{'; '.join(changes)}."


def _label(subject: str, change: Data) -> str:
    if change["field"] == "service_price":
        return f"Price of {change['service']['name']}"
    known = FIELD_LABELS.get((subject, change["field"]))
    field = _field(subject, change["field"])
    return known or capfirst(str(field.verbose_name))


def _field(subject: str, name: str) -> Any:
    return MODELS[subject]._meta.get_field(RENAMED.get((subject, name), name))


def _value(subject: str, change: Data, when: str) -> str:
    """Returns a value as text for people."""
    name, value = change["field"], change[when]
    field = None if name == "service_price" else _field(subject, name)
    choices = dict(getattr(field, "flatchoices", ()))
    match value:
        case bool():
            shown = "yes" if value else "no"
        case None | "" | []:
            shown = "nothing"
        case list():
            labels = dict(EventType.choices)
            shown = ", ".join(str(labels.get(each, each)) for each in value)
        case {"name": str(named)}:
            shown = f"“{named}”"
        case _ if field is None or isinstance(field, models.DecimalField):
            shown = _money(value)
        case _:
            shown = str(choices[value]) if value in choices else f"“{value}”"
    return shown


# --- Keys and webhooks --------------------------------------------------------------------------


def _key_made(data: Data) -> str:
    owner, expires = User.objects.filter(pk=data["owner"]).first(), data["expires_at"]
    parts = [
        f"Name: “{data['name']}”",
        f"Begins with: {data['prefix']}",
        f"Owner: {owner} ({owner.email})" if owner else "Owner: no longer known",
        f"Read only: {'yes' if data['is_read_only'] else 'no'}",
        f"Expires: {_moment(expires) if expires else 'never'}",
    ]
    if data["requests_per_minute"] is not None:
        parts.append(f"Requests per minute: {data['requests_per_minute'] or 'no limit'}")
    return f"Added. {'; '.join(parts)}."


def _moment(written: str) -> str:
    return f"{timezone.localtime(datetime.fromisoformat(written)):%Y-%m-%d %H:%M %Z}"


def _key_added(data: Data) -> str:
    return f"API key “{data['name']}” ({data['prefix']}…) was added."


def _key_revoked(data: Data) -> str:
    return f"API key “{data['name']}” ({data['prefix']}…) was revoked."


def _sent_again(data: Data) -> str:
    return (
        f"Delivery {data['delivery']} ({EventType(data['type']).label}, user {data['user_id']}) "
        "is sent again."
    )


def _given_up_sent_again(data: Data) -> str:
    count = data["count"]
    what = "delivery is" if count == 1 else "deliveries are"
    return f"{count:,} given up {what} sent again."


# --- What came before events --------------------------------------------------------------------


def _noted(data: Data) -> str:
    """Returns the original sentence of an entry in Django's log."""
    entry = LogEntry(
        action_flag=data["flag"],
        change_message=data["message"] or "",
        object_repr=data["name"] or "",
    )
    said = entry.get_change_message()
    if data["message"] is None:
        return "The wording was erased."
    if said:
        return str(said)
    return {1: "Added.", 2: "No fields changed.", 3: "Deleted."}[data["flag"]]


def _money(amount: str) -> str:
    return format_money(Decimal(amount))


def _says(words: str) -> Callable[[Data], str]:
    return lambda data: words


# Sentences that also depend on the subject.
OF_SUBJECTS: Final[Mapping[str, Callable[[Data, str], str]]] = {
    "configured": _configured,
    "reconfigured": _reconfigured,
}
SENTENCES: Final[Mapping[str, Callable[[Data], str]]] = {
    "added": _added,
    "changed": _changed,
    "imported": _imported,
    "deleted": _says("Deleted."),
    "activated": _says("Activated."),
    "deactivated": _says("Deactivated."),
    "merged_into": _merged_into,
    "merged": _merged,
    "forgotten": _says("The personal data was erased."),
    "password_set": _says("A new password was set."),
    "subscription_started": _subscribed,
    "plan_changed": _plan_changed,
    "subscription_cancelled": _cancelled,
    "grant_expiry_changed": _grant_expiry_changed,
    "voucher_redeemed": _voucher_redeemed,
    "low_balance_changed": _threshold_changed,
    "default_low_balance_changed": _default_threshold_changed,
    "key_made": _key_made,
    "key_added": _key_added,
    "key_revoked": _key_revoked,
    "revoked": _says("Revoked."),
    "secret_renewed": _says("A new secret was made."),
    "secret_shown": _says("The secret was shown."),
    "delivery_sent_again": _sent_again,
    "given_up_sent_again": _given_up_sent_again,
    "noted": _noted,
}
