"""Webhooks in the panel: endpoints, their secrets and their deliveries."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing import webhooks
from billing.admin.webhook_deliveries import DeliveryFilters
from billing.models import (
    EventType,
    Subject,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from tests.billing.histories import execute
from tests.factories import UserFactory, user_with
from tests.operators import client_of, operator_with
from tests.recorded import all_sentences, sentences_of
from users.models import User

pytestmark = pytest.mark.django_db

ENDPOINTS = "/admin/billing/webhookendpoint/"
DELIVERIES = "/admin/billing/webhookdelivery/"
ADDRESS = "https://93.184.215.14/hook"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
Status = WebhookDelivery.Status


def endpoint(**fields: Any) -> WebhookEndpoint:
    fields = {"name": "CRM", "url": ADDRESS, "events": [EventType.TRANSACTION_POSTED]} | fields
    return WebhookEndpoint.objects.create(secret=webhooks.new_secret(), **fields)


def page_of(obj: WebhookEndpoint | WebhookDelivery, action: str = "change") -> str:
    return f"/admin/billing/{obj._meta.model_name}/{obj.pk}/{action}/"


def delivery(of: WebhookEndpoint, user: User | None = None, **fields: Any) -> WebhookDelivery:
    """Returns the endpoint's latest delivery, with these fields set.

    Without `user`, it first refills a new user, which makes a delivery.
    """
    user_with(real=5) if user is None else None
    made = WebhookDelivery.objects.filter(endpoint=of).latest("pk")
    WebhookDelivery.objects.filter(pk=made.pk).update(**fields)
    made.refresh_from_db()
    return made


def history() -> list[str]:
    return all_sentences()


def filled_in(**values: Any) -> dict[str, Any]:
    return {
        "name": "CRM", "url": ADDRESS, "events": ["transaction.posted"], "is_active": "on"
    } | values  # fmt: skip


@pytest.fixture
def woken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The IDs of the endpoints for which a job was queued, in order."""
    ids: list[int] = []
    monkeypatch.setattr("billing.webhooks.wake", ids.append)
    return ids


def answers_with(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> list[int]:
    """Answers test events like this. Returns a list of the endpoints that were tried, by ID."""
    tried: list[int] = []

    def send_test(of: WebhookEndpoint) -> webhooks.Reply:
        tried.append(of.pk)
        return webhooks.Reply(at=NOW, milliseconds=1234, **fields)

    monkeypatch.setattr("billing.webhooks.send_test", send_test)
    return tried


# --- Endpoints ----------------------------------------------------------------------------------


def test_an_endpoint_is_added_with_a_secret_of_its_own(panel: Client) -> None:
    sent = filled_in(name="CRM", events=["subscription.resumed", "transaction.posted"])
    answer = panel.post(f"{ENDPOINTS}add/", sent)
    made = WebhookEndpoint.objects.get()
    assert answer["Location"] == page_of(made, "secret")
    assert (made.name, made.url, made.is_active) == ("CRM", ADDRESS, True)
    assert made.events == ["transaction.posted", "subscription.resumed"]
    assert made.secret.startswith("whsec_")
    panel.post(f"{ENDPOINTS}add/", sent | {"name": "ERP"})
    assert WebhookEndpoint.objects.get(name="ERP").secret != made.secret
    assert history()[0] == (
        f"Added. Name: “CRM”; Address: “{ADDRESS}”; "
        "Events: Transaction posted, Subscription resumed; Active: yes."
    )


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": ""}, "This field is required."),
        ({"url": "no address"}, "Enter a valid URL."),
        ({"url": "https://10.0.0.1/hook"}, "10.0.0.1 is neither a public address"),
        ({"url": "http://93.184.215.14/hook"}, "http://"),
        ({"url": "ftp://93.184.215.14/hook"}, "The address must begin with https://."),
        ({"events": []}, "Choose at least one event."),
        ({"events": ["money.lost"]}, "money.lost is not one of the available choices."),
    ],
)
def test_bad_input_is_refused_and_stays_in_the_form(
    panel: Client, values: dict[str, Any], problem: str
) -> None:
    there = endpoint(name="There", url="https://93.184.215.14/there")
    for path in (f"{ENDPOINTS}add/", page_of(there)):
        answer = panel.post(path, filled_in(name="Typed") | values)
        form = answer.context["adminform"].form
        assert problem in answer.text
        assert all(form[name].value() == value for name, value in values.items())
    there.refresh_from_db()
    assert (there.name, there.url) == ("There", "https://93.184.215.14/there")
    assert WebhookEndpoint.objects.count() == 1
    assert not history()


def test_what_is_changed_is_noted_and_tried_at_once(panel: Client, woken: list[int]) -> None:
    paused = {"failures": 7, "failing_since": NOW, "paused_until": NOW + timedelta(days=999)}
    changed = endpoint(**paused)
    form = panel.get(page_of(changed)).context["adminform"].form
    sent = filled_in(url=f"{ADDRESS}2", events=["balance.low"], seen=form["seen"].value())
    assert panel.post(page_of(changed), sent).status_code == 302
    secret = changed.secret
    changed.refresh_from_db()
    assert (changed.url, changed.events, changed.secret) == (
        f"{ADDRESS}2", ["balance.low"], secret
    )  # fmt: skip
    assert (changed.failures, changed.failing_since, changed.paused_until) == (0, None, None)
    assert woken == [changed.pk]
    assert history() == [
        f"Address changed from “{ADDRESS}” to “{ADDRESS}2”; "
        "Events changed from Transaction posted to Balance below its threshold."
    ]


def test_another_name_leaves_a_pause_alone(panel: Client, woken: list[int]) -> None:
    until = NOW + timedelta(days=999)
    renamed = endpoint(failures=7, failing_since=NOW, paused_until=until)
    form = panel.get(page_of(renamed)).context["adminform"].form
    panel.post(page_of(renamed), filled_in(name="ERP", seen=form["seen"].value()))
    renamed.refresh_from_db()
    assert (renamed.name, renamed.paused_until) == ("ERP", until)
    assert (renamed.failures, renamed.failing_since) == (7, NOW)


def test_switched_off_and_on_an_endpoint_starts_anew(panel: Client, woken: list[int]) -> None:
    switched = endpoint(failures=1, failing_since=NOW, paused_until=NOW + timedelta(days=999))
    refused = delivery(switched, next_attempt_at=NOW + timedelta(days=999), refusal_count=8)
    for is_active in ({}, {"is_active": "on"}):
        form = panel.get(page_of(switched)).context["adminform"].form
        sent = filled_in(seen=form["seen"].value())
        del sent["is_active"]
        assert panel.post(page_of(switched), sent | is_active).status_code == 302
        switched.refresh_from_db()
        assert switched.is_active == bool(is_active)
        assert (switched.failures, switched.failing_since, switched.paused_until) == (0, None, None)
    refused.refresh_from_db()
    assert (refused.next_attempt_at, refused.refusal_count) == (None, 0)
    assert woken == [switched.pk] * 2


def test_an_endpoint_is_deleted_after_a_question(panel: Client) -> None:
    gone, stays = endpoint(), endpoint(name="ERP")
    of_gone, of_stays = delivery(gone), delivery(stays, UserFactory())
    asked = panel.get(page_of(gone, "delete")).text
    assert "Are you sure" in asked
    assert "Waiting events that will not be sent: 1" in asked
    WebhookDelivery.objects.filter(pk=of_gone.pk).update(status=Status.DELIVERED)
    asked = panel.get(page_of(gone, "delete")).text
    assert "The record of all its deliveries" in asked
    assert "Waiting events that" not in asked
    assert WebhookEndpoint.objects.count() == 2
    panel.post(page_of(gone, "delete"), {"post": "yes"})
    assert [*WebhookEndpoint.objects.all()] == [stays]
    listed = panel.get(DELIVERIES).context["page"]
    assert ([*listed.rows], listed.has_newer, listed.has_older) == ([of_stays], False, False)
    assert panel.get(page_of(of_gone)).status_code == 404
    assert sentences_of(Subject.WEBHOOK_ENDPOINT, gone.pk) == ["Deleted."]


def test_the_list_says_how_each_endpoint_does(
    panel: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.admin.webhook_endpoints.COUNTED_MAX", 2)
    idle = endpoint(name="Idle", is_active=False)
    active = endpoint(name="Active")
    for status in (*[Status.PENDING] * 3, Status.DELIVERED, Status.FAILED):
        finished_at = None if status == Status.PENDING else NOW
        delivery(active, status=status, finished_at=finished_at)
    paused_until = timezone.now() + timedelta(minutes=4)
    failing = endpoint(name="Failing", failures=3, failing_since=NOW, paused_until=paused_until)
    rows = panel.get(ENDPOINTS).context["rows"]
    assert [
        (row.endpoint, row.state, row.waiting_shown, row.given_up_shown, row.last_delivered_at)
        for row in rows
    ] == [
        (failing, "failing", "0", "0", None),
        (active, "active", "2+", "1", NOW),
        (idle, "inactive", "0", "0", None),
    ]
    text = panel.get(page_of(failing)).text
    assert "Nothing has been delivered since 2026-11-22 12:00." in text
    assert "after 3 failures in a row" in text
    assert "This endpoint is not active" in panel.get(page_of(idle)).text


def test_without_endpoints_the_list_says_what_they_are(panel: Client) -> None:
    assert "There are no endpoints yet." in panel.get(ENDPOINTS).text


# --- Test events --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"status_code": 204}, ["The test event was delivered.", "204", "1,234 ms"]),
        (
            {"status_code": 503, "problem": "It answered 503.", "beginning": "<b>maintained"},
            ["was not delivered.", "It answered 503.", "&lt;b&gt;maintained"],
        ),
        ({"problem": "It took too long."}, ["was not delivered.", "None: there was no answer"]),
    ],
)
def test_a_test_event_shows_what_came_of_it(
    panel: Client, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], shown: list[str]
) -> None:
    tried = answers_with(monkeypatch, **fields)
    target = endpoint()
    assert panel.get(page_of(target, "test")).status_code == 302
    assert not tried
    text = panel.post(page_of(target, "test")).text
    assert tried == [target.pk]
    assert all(each in text for each in shown)


@pytest.mark.parametrize(("problem", "ends"), [("", True), ("It answered 503.", False)])
def test_a_test_that_gets_through_ends_a_pause(
    panel: Client, monkeypatch: pytest.MonkeyPatch, woken: list[int], problem: str, *, ends: bool
) -> None:
    answers_with(monkeypatch, status_code=200, problem=problem)
    paused = endpoint(failures=3, failing_since=NOW, paused_until=NOW + timedelta(days=999))
    panel.post(page_of(paused, "test"))
    paused.refresh_from_db()
    assert (paused.paused_until is None) == ends
    assert woken == ([paused.pk] if ends else [])


# --- Secrets ------------------------------------------------------------------------------------


def test_a_secret_is_shown_when_asked_for_and_nowhere_else(panel: Client) -> None:
    target = endpoint()
    sent = delivery(target)
    for path in (
        ENDPOINTS, page_of(target), page_of(target, "history"), page_of(target, "delete"),
        page_of(target, "secret"), page_of(target, "secret") + "?do=show", DELIVERIES,
        page_of(sent),
    ):  # fmt: skip
        assert target.secret not in panel.get(path).text, path
    answer = panel.post(page_of(target, "secret"), {"do": "show"})
    assert target.secret in answer.text
    assert "no-store" in answer["Cache-Control"]
    assert history() == ["The secret was shown."]


def test_a_new_secret_is_made_after_a_question(panel: Client) -> None:
    target = endpoint()
    old = target.secret
    asked = panel.post(page_of(target, "secret"), {"do": "ask"}).text
    target.refresh_from_db()
    assert target.secret == old
    assert "The new secret signs" in asked
    answer = panel.post(page_of(target, "secret"), {"do": "renew"})
    target.refresh_from_db()
    assert target.secret != old
    assert target.secret in answer.text
    assert history() == ["A new secret was made."]
    assert old not in " ".join(history())


def test_with_a_new_secret_an_endpoint_starts_anew(panel: Client) -> None:
    """The endpoint may have refused deliveries because of the old secret."""
    target = endpoint(failures=7, failing_since=NOW, paused_until=NOW + timedelta(days=999))
    refused = delivery(target, next_attempt_at=NOW + timedelta(days=999), refusal_count=8)
    panel.post(page_of(target, "secret"), {"do": "renew"})
    target.refresh_from_db()
    assert (target.failures, target.failing_since, target.paused_until) == (0, None, None)
    refused.refresh_from_db()
    assert (refused.next_attempt_at, refused.refusal_count) == (None, 0)


def test_an_endpoint_that_refused_one_user_alone_is_not_called_failing(panel: Client) -> None:
    of = endpoint(failing_since=timezone.now() - timedelta(hours=6))
    assert "Nothing has been delivered" not in panel.get(page_of(of)).text
    assert "do not reach" not in panel.get("/admin/").text


# --- Permissions --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permissions", "allowed"),
    [
        ((), set()),
        (("view_webhookendpoint",), {"list", "page", "history"}),
        (("add_webhookendpoint",), {"add"}),
        (
            ("change_webhookendpoint",),
            {"list", "page", "history", "secret", "show", "renew", "test", "save"},
        ),
        (("delete_webhookendpoint",), {"delete"}),
        (("view_webhookdelivery",), {"deliveries", "delivery"}),
        (("change_webhookdelivery",), {"deliveries", "delivery", "again"}),
        (("view_apikey", "change_apikey", "view_transaction"), set()),
    ],
)
def test_each_page_and_action_asks_for_its_right(
    monkeypatch: pytest.MonkeyPatch, permissions: tuple[str, ...], allowed: set[str]
) -> None:
    answers_with(monkeypatch)
    target = endpoint()
    sent = delivery(target, status=Status.FAILED)
    client = client_of(operator_with(*(f"billing.{each}" for each in permissions)))
    form = {"name": "Changed"} | filled_in(name="Changed")
    calls: dict[str, tuple[str, str, dict[str, Any]]] = {
        "list": ("get", ENDPOINTS, {}),
        "page": ("get", page_of(target), {}),
        "history": ("get", page_of(target, "history"), {}),
        "add": ("get", f"{ENDPOINTS}add/", {}),
        "secret": ("get", page_of(target, "secret"), {}),
        "show": ("post", page_of(target, "secret"), {"do": "show"}),
        "renew": ("post", page_of(target, "secret"), {"do": "renew"}),
        "test": ("post", page_of(target, "test"), {}),
        "save": ("post", page_of(target), form),
        "delete": ("get", page_of(target, "delete"), {}),
        "deliveries": ("get", DELIVERIES, {}),
        "delivery": ("get", page_of(sent), {}),
        "again": ("post", page_of(sent, "again"), {}),
    }
    statuses = {
        name: getattr(client, method)(path, data).status_code
        for name, (method, path, data) in calls.items()
    }
    assert {name for name, status in statuses.items() if status in (200, 302)} == allowed
    assert {status for name, status in statuses.items() if name not in allowed} <= {403}
    sent.refresh_from_db()
    assert (sent.status == Status.PENDING) == ("again" in allowed)
    assert (WebhookEndpoint.objects.get().secret != target.secret) == ("renew" in allowed)


def test_a_viewer_sees_events_in_words_and_no_buttons() -> None:
    target = endpoint(events=["balance.low"])
    text = client_of(operator_with("billing.view_webhookendpoint")).get(page_of(target)).text
    assert "Balance below its threshold" in text
    assert "Send test event" not in text
    assert page_of(target, "secret") not in text


@pytest.mark.parametrize("number", ["0", "99999999999999999999", "x", "1_0", "+1"])
def test_what_does_not_exist_is_not_found(panel: Client, number: str) -> None:
    for path in ("webhookendpoint/{}/secret/", "webhookendpoint/{}/test/",
                 "webhookendpoint/{}/history/", "webhookdelivery/{}/change/",
                 "webhookdelivery/{}/again/"):  # fmt: skip
        assert panel.post(f"/admin/billing/{path.format(number)}").status_code == 404, path


# --- Deliveries ---------------------------------------------------------------------------------


def test_deliveries_are_found_by_endpoint_status_event_and_user(panel: Client) -> None:
    crm = endpoint(events=[EventType.TRANSACTION_POSTED])
    user = user_with(real=5, email="ada@example.com")
    first = delivery(crm, user, status=Status.DELIVERED)
    erp = endpoint(name="ERP", events=[EventType.TRANSACTION_POSTED])
    second = delivery(erp)
    third = WebhookDelivery.objects.exclude(pk=first.pk).get(endpoint=crm)
    newest_first = sorted([first, second, third], key=lambda each: -each.pk)

    def found(**query: Any) -> list[WebhookDelivery]:
        return [*panel.get(DELIVERIES, query).context["page"].rows]

    assert found() == newest_first
    assert found(endpoint=erp.pk) == [second]
    assert found(endpoint=crm.pk, status="pending") == [third]
    assert found(status="delivered") == [first]
    assert found(user=user.pk) == found(user="ADA@example.com") == [first]
    assert found(event="balance.low") == []
    assert found(event="transaction.posted", user=second.user_id) == [
        each for each in newest_first if each != first
    ]
    # Filters that make no sense find nothing.
    assert found(endpoint="x", status="lost", event="x") == []
    assert found(user="9" * 30) == found(user="nobody@example.com") == found(user="-1") == []


@pytest.mark.parametrize("by", ["pk", "email"])
def test_the_deliveries_of_a_user_are_found_by_an_index(by: str) -> None:
    execute(
        "INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status) "
        "SELECT n, %s, n %% 50, 'delivered' FROM generate_series(1, 5000) n",
        [endpoint().pk],
    )
    execute("SET LOCAL enable_seqscan = off")
    listed = DeliveryFilters({"user": getattr(UserFactory(), by)}).listed()
    assert "deliveries_of_a_user" in listed.order_by("-id")[:50].explain()


def test_deliveries_have_pages(panel: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.reports.pages.PAGE_SIZE", 2)
    of = endpoint()
    made = [delivery(of) for _ in range(3)]
    first = panel.get(DELIVERIES).context["page"]
    assert [*first.rows] == [made[2], made[1]]
    second = panel.get(DELIVERIES, {"before": first.last_key}).context["page"]
    assert ([*second.rows], second.has_newer) == ([made[0]], True)


def test_a_delivery_shows_what_was_sent_and_each_attempt(panel: Client) -> None:
    sent = delivery(endpoint(), status=Status.FAILED, attempt_count=2, finished_at=NOW)
    for number, problem in enumerate(("It answered 500.", "It took too long.")):
        WebhookAttempt.objects.create(
            delivery=sent, at=NOW + timedelta(seconds=number), milliseconds=1500, problem=problem,
            status_code=None if number else 500, answer="" if number else "<i>oops",
        )  # fmt: skip
    answer = panel.get(page_of(sent))
    assert [each.problem for each in answer.context["attempts"]] == [
        "It took too long.",
        "It answered 500.",
    ]
    for shown in ("1,500 ms", "&lt;i&gt;oops", "evt_", "&quot;amount&quot;: &quot;5.0000&quot;"):
        assert shown in answer.text
    assert "It took too long." in panel.get(DELIVERIES).text


@pytest.mark.parametrize(
    ("event_type", "right"),
    [
        ("transaction.posted", "billing.view_transaction"),
        ("balance.low", "billing.view_transaction"),
        ("subscription.suspended", "billing.view_subscription"),
    ],
)
def test_a_body_is_shown_to_who_may_see_what_it_tells_of(event_type: str, right: str) -> None:
    sent = delivery(endpoint())
    sent.event.type = event_type
    sent.event.save()
    for rights, sees in (
        ({"billing.view_transaction", "billing.view_subscription"} - {right}, False),
        ({right}, True),
    ):
        client = client_of(operator_with("billing.view_webhookdelivery", *rights))
        answer = client.get(page_of(sent))
        assert bool(answer.context["body"]) == sees
        assert ("You may not see it" in answer.text) != sees
        assert ("93.184.215.14" in answer.text) is False  # only the endpoint's page shows it


def test_a_delivery_is_sent_again_and_the_endpoints_history_says_so(panel: Client) -> None:
    of = endpoint()
    sent = delivery(of, status=Status.FAILED, finished_at=NOW)
    assert panel.get(page_of(sent, "again")).status_code == 302
    sent.refresh_from_db()
    assert sent.status == Status.FAILED
    text = panel.post(page_of(sent, "again"), follow=True).text
    assert "It is sent again in a moment." in text
    sent.refresh_from_db()
    assert (sent.status, sent.finished_at) == (Status.PENDING, None)
    assert sentences_of(Subject.WEBHOOK_ENDPOINT, of.pk) == [
        f"Delivery {sent.pk} (Transaction posted, user {sent.user_id}) is sent again."
    ]


def test_all_that_was_given_up_for_an_endpoint_is_sent_again(
    panel: Client, woken: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.webhooks.deliveries.wake", woken.append)
    monkeypatch.setattr("billing.webhooks.deliveries.AGAIN_AT_ONCE", 2)
    of, other = endpoint(), endpoint(name="ERP")
    for _ in range(3):
        user_with(real=5)
    WebhookDelivery.objects.update(status=Status.FAILED, finished_at=NOW)
    path, button = f"{DELIVERIES}given-up-again/", "Send all given up again"
    assert button not in panel.get(DELIVERIES, {"status": "failed"}).text
    assert button not in panel.get(DELIVERIES, {"endpoint": of.pk}).text
    assert button in panel.get(DELIVERIES, {"endpoint": of.pk, "status": "failed"}).text
    viewer = client_of(operator_with("billing.view_webhookdelivery"))
    assert button not in viewer.get(DELIVERIES, {"endpoint": of.pk, "status": "failed"}).text
    assert viewer.post(path, {"endpoint": of.pk}).status_code == 403

    def states(each: WebhookEndpoint) -> list[str]:
        rows = WebhookDelivery.objects.filter(endpoint=each).order_by("pk")
        return [*rows.values_list("status", flat=True)]

    assert "2 given up deliveries are sent again." in (
        panel.post(path, {"endpoint": of.pk}, follow=True).text
    )
    assert states(of) == ["pending", "pending", "failed"]
    panel.post(path, {"endpoint": of.pk})
    panel.post(path, {"endpoint": of.pk})
    assert (states(of), states(other)) == (["pending"] * 3, ["failed"] * 3)
    assert history() == [
        "2 given up deliveries are sent again.",
        "1 given up delivery is sent again.",
    ]
    assert set(woken) == {of.pk}
    for number in ("", "x", "0", "999999999"):
        assert panel.post(path, {"endpoint": number}).status_code == 404
    assert panel.get(path).status_code == 404


@pytest.mark.parametrize(
    ("fields", "of", "shown"),
    [
        ({}, {}, "as soon as possible"),
        ({"next_attempt_at": datetime(2999, 1, 1, tzinfo=UTC)}, {}, "next attempt 2999-01-01"),
        ({}, {"is_active": False}, "the endpoint is not active"),
        ({}, {"paused_until": datetime(2999, 1, 1, tzinfo=UTC)}, "the endpoint is paused"),
        ({"status": "delivered", "finished_at": NOW}, {}, "2026-11-22 12:00:00"),
    ],
)
def test_the_list_says_what_a_delivery_waits_for(
    panel: Client, fields: dict[str, Any], of: dict[str, Any], shown: str
) -> None:
    target = endpoint()
    delivery(target, **fields)
    WebhookEndpoint.objects.update(**of)
    assert shown in panel.get(DELIVERIES).text


# --- The start page -----------------------------------------------------------------------------


def test_the_start_page_warns_of_what_does_not_get_through(panel: Client) -> None:
    of = endpoint(name="<CRM>")
    delivery(of, status=Status.FAILED, finished_at=timezone.now() - timedelta(days=6))
    delivery(of, status=Status.FAILED, finished_at=timezone.now() - timedelta(days=8))
    text = panel.get("/admin/").text
    assert "1 webhook delivery was given up in the last 7 days." in text
    assert "do not reach" not in text
    now = timezone.now()
    WebhookEndpoint.objects.update(failing_since=now - timedelta(minutes=1), failures=2)
    assert "do not reach" not in panel.get("/admin/").text
    WebhookEndpoint.objects.update(failing_since=now - timedelta(minutes=6), failures=9)
    assert "Webhooks do not reach &lt;CRM&gt;" in panel.get("/admin/").text
    WebhookEndpoint.objects.update(is_active=False)
    assert "do not reach" not in panel.get("/admin/").text


@pytest.mark.parametrize(
    ("happened", "next_attempt", "latest_attempt", "of", "since"),
    [
        (16, None, None, {}, 16),
        (16, None, 16, {}, 16),
        (60, 20, 40, {}, 20),
        (14, None, None, {}, None),  # workers that cron starts may take this long
        (60, 14, 60, {}, None),
        (60, -1, 60, {}, None),
        (60, None, 14, {}, None),  # many wait, but sending goes on
        (60, None, None, {"is_active": False}, None),
        (60, None, None, {"paused_until": -1}, None),
        (60, None, None, {"paused_until": 14}, None),
        (60, None, None, {"paused_until": 16}, 60),
    ],
)
def test_the_start_page_warns_if_nobody_sends_webhooks(  # noqa: PLR0917 - named by parametrize
    panel: Client,
    monkeypatch: pytest.MonkeyPatch,
    happened: int,
    next_attempt: int | None,
    latest_attempt: int | None,
    of: dict[str, Any],
    since: int | None,
) -> None:
    """All times are in minutes ago."""
    now = timezone.now()

    def ago(minutes: int | None) -> datetime | None:
        return None if minutes is None else now - timedelta(minutes=minutes)

    monkeypatch.setattr(timezone, "now", lambda: now)
    target = endpoint()
    delivered = delivery(target, status=Status.DELIVERED, finished_at=now)
    if latest_attempt is not None:
        WebhookAttempt.objects.create(
            delivery=delivered, at=ago(latest_attempt), milliseconds=5, status_code=204
        )
    waiting = delivery(target, next_attempt_at=ago(next_attempt))
    WebhookEvent.objects.filter(pk=waiting.event_id).update(created_at=ago(happened))
    fields = of | {"paused_until": ago(of.get("paused_until"))}
    WebhookEndpoint.objects.update(**fields)
    answer = panel.get("/admin/")
    assert answer.context["stalled_since"] == ago(since)
    assert ("Webhooks are not being sent." in answer.text) == (since is not None)


def test_the_start_page_warns_those_who_may_see_webhooks() -> None:
    now = timezone.now()
    of = endpoint(failing_since=now - timedelta(hours=1), failures=9)
    delivery(of, status=Status.FAILED, finished_at=now)
    sees = {
        permission: (
            "do not reach" in (text := client_of(operator_with(permission)).get("/admin/").text),
            "given up" in text,
        )
        for permission in (
            "billing.view_webhookendpoint",
            "billing.view_webhookdelivery",
            "billing.view_transaction",
        )
    }
    assert list(sees.values()) == [(True, False), (False, True), (False, False)]
