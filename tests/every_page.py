"""Lists every page of the panel, from its URL patterns, so that new pages are included.

The parameters of an address are filled in with objects that exist (`Things`). If a parameter cannot
be filled in, this fails instead of leaving the page out: add the object to `Things`.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.contrib import admin
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.utils import timezone

from billing import authority, ledger, webhooks
from billing.models import (
    ApiKey,
    Batch,
    Channel,
    ChargingFailure,
    ChargingRun,
    EventType,
    Export,
    Grant,
    LowBalanceThreshold,
    Reason,
    Transaction,
    UserDefaults,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from billing.operations import batches
from tests.factories import ServiceFactory, a_voucher, plan_with, subscribed, user_with
from users.models import User


class PanelPage(NamedTuple):
    """A page: the name of its URL pattern ("" if it has none), and its address."""

    name: str
    path: str


def a_batch(user: User) -> Batch:
    """Posts a batch of one refill."""
    entries = [ledger.balance_change_entry(user, amount=3, description="Of a batch")]
    sheet = batches.Sheet(kind=Batch.Kind.REQUEST, title="Refills")
    batch = batches.post(entries, sheet, actor=None, channel=Channel.API).batch
    assert batch is not None
    return batch


class Things:
    """One object of each kind that a page can be about."""

    def __init__(self, operator: User) -> None:
        service = ServiceFactory(name="Outgoing SMS")
        plan = plan_with({service: "0.05"}, name="Fleet")
        endpoint = WebhookEndpoint.objects.create(
            name="Accounting",
            url="https://accounting.example/receive",
            secret=webhooks.new_secret(),
            events=EventType.values,
        )
        self.user = user_with(50, 5, email="ada@example.net", first_name="Ada", last_name="Byron")
        subscription = subscribed(self.user, plan, device="8617")
        delivery = WebhookDelivery.objects.filter(endpoint=endpoint).earliest("pk")
        WebhookAttempt.objects.create(
            delivery=delivery, at=timezone.now(), milliseconds=10, status_code=503, problem="503"
        )
        run = ChargingRun.objects.create(at=timezone.now(), started_by="command", due=1, failed=1)
        ChargingFailure.objects.create(run=run, user=self.user, problem="It was refused.")
        key, _ = authority.issue_key(name="Shop", owner=operator, created_by=operator)
        ApiKey.objects.filter(pk=key.pk).update(last_used_at=timezone.now())
        by_model: dict[str, Any] = {
            "users_user": self.user,
            "users_operator": operator,
            "auth_user": operator,
            "auth_group": Group.objects.earliest("pk"),
            "billing_reason": Reason.objects.create(
                code="cash", label="Paid in cash", template="Paid in cash"
            ),
            "billing_batch": a_batch(self.user),
            "billing_voucher": a_voucher(uses_max=5),
            "billing_export": Export.objects.create(
                operator=operator,
                title="All users",
                listing={},
                time_zone="UTC",
                file_name="t.xlsx",
            ),
            "billing_transaction": Transaction.objects.filter(user=self.user).earliest("pk"),
            "billing_plan": plan,
            "billing_service": service,
            "billing_subscription": subscription,
            "billing_chargingrun": run,
            "billing_userdefaults": UserDefaults.objects.get_or_create(pk=UserDefaults.ONLY_ID)[0],
            "billing_apikey": key,
            "billing_webhookendpoint": endpoint,
            "billing_webhookdelivery": delivery,
            "billing_lowbalancethreshold": LowBalanceThreshold.objects.create(
                user=self.user, amount=10
            ),
        }
        self.ids = {model: thing.pk for model, thing in by_model.items()}
        self.fixed = {
            "subscription_id": subscription.pk,
            "number": Grant.objects.get(user=self.user).number,
            "content_type_id": ContentType.objects.get_for_model(User).pk,
            "app_label": "billing",
            "url": "nowhere",
        }

    def named_by(self, prefix: str, parameter: str) -> Any:
        """Returns the value of a parameter in the address `prefix`."""
        if parameter in self.fixed:
            return self.fixed[parameter]
        model = "_".join(prefix.split("/")[:2])
        return self.ids["users_user" if model.startswith("r_") else model]


def pages(things: Things) -> list[PanelPage]:
    found = []
    for pattern, name in _patterns(admin.site.get_urls(), ""):
        [(address, parameters)] = pattern.reverse_forms
        filled = address % {each: things.named_by(address, each) for each in parameters}
        found.append(PanelPage(name, f"/admin/{filled}"))
    return found


class _Pattern(NamedTuple):
    reverse_forms: list[tuple[str, list[str]]]


def _patterns(patterns: list[Any], prefix: str) -> Iterator[tuple[_Pattern, str]]:
    from django.urls import URLResolver
    from django.utils.regex_helper import normalize

    for each in patterns:
        if isinstance(each, URLResolver):
            yield from _patterns(each.url_patterns, prefix + each.pattern.regex.pattern.lstrip("^"))
        else:
            regex = prefix + each.pattern.regex.pattern.lstrip("^").replace(r"\Z", "")
            yield _Pattern(normalize(regex)), each.name or ""
