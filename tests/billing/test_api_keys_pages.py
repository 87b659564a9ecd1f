"""API keys in the panel: making, showing, finding and revoking them, and the rights needed."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from billing import authority
from billing.models import ApiKey
from tests.conftest import Connections
from tests.factories import AdministratorFactory, OperatorFactory
from tests.operators import client_of, operator_with
from tests.recorded import all_sentences
from users.models import User

KEYS = "/admin/billing/apikey/"
ADD = f"{KEYS}add/"
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
SECRET = re.compile(r"bill_[\w-]{43}")


def page_of(key: ApiKey, action: str = "change") -> str:
    return f"{KEYS}{key.pk}/{action}/"


def filled_in(owner: User, **values: Any) -> dict[str, Any]:
    return {"name": "Payment gateway", "owner": owner.pk, "lasts": "365"} | values


def key_of(owner: User, **fields: Any) -> ApiKey:
    fields = {"name": "Payment gateway", "created_by": owner} | fields
    return authority.issue_key(owner=owner, **fields)[0]


def history() -> list[str]:
    return all_sentences()


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> datetime:
    monkeypatch.setattr("billing.admin.api_keys.timezone.now", lambda: NOW)
    return NOW


# --- What works ---------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "owner_fields", "state"),
    [
        ({}, {}, "working"),
        ({"expires_at": NOW + timedelta(microseconds=1)}, {}, "working"),
        ({"expires_at": NOW}, {}, "expired"),
        ({}, {"is_active": False}, "owner inactive"),
        ({}, {"is_staff": False}, "owner inactive"),
        ({"expires_at": NOW}, {"is_active": False}, "expired"),
    ],
)
def test_the_state_shown_is_whether_it_works(
    fields: dict[str, Any], owner_fields: dict[str, Any], state: str
) -> None:
    owner = OperatorFactory(**owner_fields)
    key, secret = authority.issue_key(name="X", owner=owner, created_by=owner, **fields)
    assert authority.state_of(key, NOW) == state
    assert (authority.find_key(secret, NOW) == key) == (state == "working")
    assert (key in authority.working_keys(NOW)) == (state == "working")
    authority.revoke_key(key, by=owner, now=NOW)
    assert authority.state_of(key, NOW) == "revoked"
    assert authority.find_key(secret, NOW) is None
    assert key not in authority.working_keys(NOW)


# --- Adding -------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_key_is_shown_once_and_stands_nowhere_else(
    panel: Client, administrator: User, now: datetime
) -> None:
    answer = panel.post(ADD, filled_in(administrator))
    key = ApiKey.objects.get()
    [secret] = set(SECRET.findall(answer.text))
    assert authority.find_key(secret, now) == key
    assert "no-store" in answer["Cache-Control"]
    assert "This is the only time that the key is shown." in answer.text
    for page in (answer, panel.get(page_of(key))):
        assert 'href="/api/v1/docs"' in page.text
    # No page, history, session or cookie contains the key or its digest.
    kept = [
        *(
            panel.get(path).text
            for path in (KEYS, page_of(key), page_of(key, "history"), page_of(key, "revoke"), ADD)
        ),
        *history(),
        *(str(session.get_decoded()) for session in Session.objects.all()),
        str(panel.cookies),
        panel.get(f"/admin/users/operator/{administrator.pk}/history/").text,
    ]
    assert not any(secret[12:] in each or key.hashed in each for each in kept)
    assert all(key.prefix in each for each in kept[:4])


@pytest.mark.django_db
def test_everything_that_was_chosen_is_kept_and_noted(
    panel: Client, administrator: User, now: datetime
) -> None:
    owner = operator_with(first_name="Olga", last_name="Owner", email="olga@example.com")
    sent = filled_in(
        owner, name=" Gateway ", is_read_only="on", lasts="day", last_day="2026-12-31",
        requests_per_minute="60",
    )  # fmt: skip
    panel.post(ADD, sent)
    key = ApiKey.objects.get()
    assert (key.name, key.owner_id, key.created_by_id) == ("Gateway", owner.pk, administrator.pk)
    assert key.is_read_only
    assert key.requests_per_minute == 60
    assert key.expires_at == datetime(2027, 1, 1, tzinfo=UTC)
    assert history() == [
        f"Added. Name: “Gateway”; Begins with: {key.prefix}; Owner: Olga Owner "
        "(olga@example.com); Read only: yes; Expires: 2027-01-01 00:00 UTC; "
        "Requests per minute: 60.",
        f"API key “Gateway” ({key.prefix}…) was added.",
    ]
    of_owner = panel.get(f"/admin/users/operator/{owner.pk}/history/").text
    assert "API key “Gateway”" in of_owner


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("lasts", "expires_at"),
    [("30", NOW + timedelta(days=30)), ("365", NOW + timedelta(days=365)), ("revoked", None)],
)
def test_how_long_a_key_lasts(
    panel: Client, administrator: User, now: datetime, lasts: str, expires_at: datetime | None
) -> None:
    panel.post(ADD, filled_in(administrator, lasts=lasts))
    assert ApiKey.objects.get().expires_at == expires_at


@pytest.mark.django_db
def test_its_last_day_is_the_operators(administrator: User, now: datetime) -> None:
    User.objects.filter(pk=administrator.pk).update(time_zone="America/New_York")
    sent = filled_in(administrator, lasts="day", last_day="2026-11-22")
    client_of(administrator).post(ADD, sent)  # type: ignore[arg-type]
    assert ApiKey.objects.get().expires_at == datetime(2026, 11, 23, 5, tzinfo=UTC)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"name": " "}, "This field is required."),
        ({"name": "x" * 61}, "at most 60 characters"),
        ({"name": "Taken"}, "Another working key has this name."),
        ({"lasts": "day"}, "Enter the last day."),
        ({"lasts": "day", "last_day": "2026-11-21"}, "This day has passed."),
        ({"lasts": "day", "last_day": "9999-12-31"}, "too far in the future"),
        ({"last_day": "2026-12-24"}, "To use this day"),
        ({"lasts": "7"}, "Select a valid choice"),
        ({"requests_per_minute": "-1"}, "greater than or equal to 0"),
        ({"requests_per_minute": "many"}, "Enter a whole number."),
        ({"owner": "x"}, "Choose an active operator who has no permission that you lack."),
        ({"owner": ""}, "This field is required."),
    ],
)
def test_bad_input_makes_no_key_and_stays_in_the_form(
    panel: Client, administrator: User, now: datetime, values: dict[str, Any], problem: str
) -> None:
    taken = key_of(administrator, name="Taken")
    ApiKey.objects.update(created_at=NOW - timedelta(days=1))
    sent = filled_in(administrator, is_read_only="on") | values
    answer = panel.post(ADD, sent)
    assert list(ApiKey.objects.all()) == [taken]
    assert problem in answer.text
    assert not SECRET.search(answer.text)
    form = answer.context["form"]
    assert all(str(form[name].value() or "") == str(value) for name, value in values.items())
    assert form["is_read_only"].value()
    assert not form.was_sent_twice
    assert not history()


@pytest.mark.django_db
def test_a_form_sent_twice_makes_one_key(panel: Client, administrator: User) -> None:
    panel.post(ADD, filled_in(administrator))
    again = panel.post(ADD, filled_in(administrator))
    assert "You have added “Payment gateway” just now" in again.text
    assert not SECRET.search(again.text)
    key = ApiKey.objects.get()
    authority.revoke_key(key, by=administrator, now=timezone.now())
    assert SECRET.search(panel.post(ADD, filled_in(administrator)).text)


def test_a_form_sent_twice_at_once_makes_one_key(connections: Connections) -> None:
    operator = AdministratorFactory()
    clients = [client_of(operator) for _ in range(2)]
    outcomes = connections(2, lambda place: clients[place].post(ADD, filled_in(operator)).text)
    texts = [str(outcome.result) for outcome in outcomes]
    assert ApiKey.objects.count() == 1
    assert sorted(bool(SECRET.search(text)) for text in texts) == [False, True]


# --- Rights -------------------------------------------------------------------------------------

MAKES_KEYS = ("billing.view_apikey", "billing.add_apikey")


@pytest.mark.django_db
def test_nobody_makes_a_key_for_an_operator_who_may_do_more() -> None:
    maker = operator_with(*MAKES_KEYS, "users.view_user")
    may = {
        maker: True,
        operator_with(): True,
        operator_with("users.view_user"): True,
        operator_with("users.change_user"): False,
        operator_with(group="Viewer"): False,
        operator_with(is_superuser=True): False,
        operator_with("users.view_user", is_active=False): False,
    }
    customer = OperatorFactory(is_staff=False)
    client = client_of(maker)
    offered = client.get(ADD).context["form"].fields["owner"].queryset
    assert {each.pk for each in offered} == {each.pk for each, allowed in may.items() if allowed}
    for number, (owner, allowed) in enumerate([*may.items(), (customer, False)]):
        answer = client.post(ADD, filled_in(owner, name=f"Key {number}"))
        assert bool(SECRET.search(answer.text)) == allowed
        assert ApiKey.objects.filter(owner_id=owner.pk).exists() == allowed


@pytest.mark.django_db
def test_a_superuser_makes_keys_for_everybody(panel: Client) -> None:
    owner = operator_with(is_superuser=True)
    assert SECRET.search(panel.post(ADD, filled_in(owner)).text)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        ((), {"list": 403, "page": 403, "history": 403, "add": 403, "revoke": 403}),
        (("view",), {"list": 200, "page": 200, "history": 200, "add": 403, "revoke": 403}),
        (("add",), {"list": 403, "page": 403, "history": 403, "add": 200, "revoke": 403}),
        (("change",), {"list": 200, "page": 200, "history": 200, "add": 403, "revoke": 200}),
    ],
)
def test_each_page_asks_for_its_right(
    permissions: tuple[str, ...], statuses: dict[str, int]
) -> None:
    key = key_of(OperatorFactory())
    client = client_of(operator_with(*(f"billing.{each}_apikey" for each in permissions)))
    paths = {
        "list": KEYS, "page": page_of(key), "history": page_of(key, "history"), "add": ADD,
        "revoke": page_of(key, "revoke"),
    }  # fmt: skip
    assert {name: client.get(path).status_code for name, path in paths.items()} == statuses
    posted = client.post(page_of(key, "revoke"))
    key.refresh_from_db()
    assert (key.revoked_at is not None) == (statuses["revoke"] == 200)
    assert posted.status_code == (302 if statuses["revoke"] == 200 else 403)
    posted = client.post(ADD, {"name": "Mine", "owner": "1", "lasts": "30"})
    assert posted.status_code == statuses["add"]


@pytest.mark.django_db
def test_a_key_is_neither_edited_nor_deleted(panel: Client, administrator: User) -> None:
    key = key_of(administrator)
    assert panel.post(page_of(key, "delete"), {"post": "yes"}).status_code == 403
    panel.post(page_of(key), {"name": "Other", "is_read_only": "on"})
    key.refresh_from_db()
    assert (key.name, key.is_read_only) == ("Payment gateway", False)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "number",
    ["0", "99999999999999999999", "x", "1_0", "+1", pytest.param("9" * 5000, id="5000 digits")],
)
def test_a_key_that_does_not_exist_is_not_found(panel: Client, number: str) -> None:
    for action in ("change", "history", "revoke"):
        assert panel.get(f"{KEYS}{number}/{action}/").status_code == 404


# --- Looking, and revoking ----------------------------------------------------------------------


@pytest.mark.django_db
def test_a_key_is_revoked_once_and_for_all(panel: Client, administrator: User) -> None:
    key, secret = authority.issue_key(name="Gateway", owner=administrator, created_by=administrator)
    assert "refused from their next request on" in panel.get(page_of(key, "revoke")).text
    assert authority.find_key(secret, timezone.now())
    text = panel.post(page_of(key, "revoke"), follow=True).text
    assert "“Gateway” is revoked" in text
    assert authority.find_key(secret, timezone.now()) is None
    key.refresh_from_db()
    first = key.revoked_at
    assert "has already been revoked" in panel.post(page_of(key, "revoke"), follow=True).text
    key.refresh_from_db()
    assert (key.revoked_at, key.revoked_by_id) == (first, administrator.pk)
    assert history() == ["Revoked.", f"API key “Gateway” ({key.prefix}…) was revoked."]


@pytest.mark.django_db
def test_a_page_says_why_a_key_does_not_work(panel: Client, administrator: User) -> None:
    inactive = key_of(OperatorFactory(is_active=False))
    expired = key_of(administrator, expires_at=timezone.now())
    revoked = key_of(administrator)
    authority.revoke_key(revoked, by=administrator, now=timezone.now())
    for key, why in (
        (inactive, "does not work: its owner is deactivated"),
        (expired, "This key expired on"),
        (revoked, "This key was revoked on"),
    ):
        assert why in panel.get(page_of(key)).text
    states = [row.state for row in panel.get(KEYS).context["rows"]]
    assert states == ["revoked", "expired", "owner inactive"]


@pytest.mark.django_db
def test_a_page_says_what_the_key_may_do(panel: Client) -> None:
    owner = operator_with("billing.view_transaction", "billing.view_balance",
                          "billing.change_balance")  # fmt: skip
    rights = panel.get(page_of(key_of(owner))).context["rights"]
    assert rights == [("Balance", "change, view"), ("Transaction", "view")]
    looking = panel.get(page_of(key_of(owner, is_read_only=True))).context["rights"]
    assert looking == [("Balance", "view"), ("Transaction", "view")]
    assert (
        "Nothing: its owner has no permissions"
        in panel.get(page_of(key_of(OperatorFactory()))).text
    )


@pytest.mark.django_db
def test_keys_are_found_by_state_name_owner_and_beginning(
    panel: Client, administrator: User
) -> None:
    owner = OperatorFactory(email="olga@example.com", first_name="Olga")
    gateway, _ = authority.issue_key(name="Gateway", owner=owner, created_by=owner)
    crm = key_of(administrator, name="CRM")
    authority.revoke_key(crm, by=administrator, now=timezone.now())

    def found(query: str) -> list[ApiKey]:
        return [row.key for row in panel.get(f"{KEYS}?{query}").context["rows"]]

    assert found("") == [crm, gateway]
    assert found("state=working") == [gateway]
    assert found("state=other") == [crm]
    assert found("q=gate") == found("q=olga") == found(f"q={gateway.prefix}") == [gateway]
    assert found("state=working&q=crm") == []
    # Nonsense finds no keys.
    assert found("state=nonsense") == found("q=%00") == []


@pytest.mark.django_db
def test_a_whole_key_is_searched_for_by_nobody(panel: Client, administrator: User) -> None:
    """tests/browser/ tests that the browser does not even send a whole key."""
    _, secret = authority.issue_key(name="Gateway", owner=administrator, created_by=administrator)
    form = panel.get(f"{KEYS}?q=Gateway+{secret}").context["form"]
    assert form.errors["q"] == [
        "Of a key, only the first 11 characters. This one was sent: if it works, revoke it."
    ]


@pytest.mark.django_db
def test_the_list_has_pages(panel: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.reports.pages.PAGE_SIZE", 2)
    keys = [key_of(OperatorFactory(), name=f"Key {number}") for number in range(3)]
    first = panel.get(KEYS)
    assert [row.key for row in first.context["rows"]] == [keys[2], keys[1]]
    second = panel.get(f"{KEYS}?before={first.context['page'].last_key}")
    assert [row.key for row in second.context["rows"]] == [keys[0]]


@pytest.mark.django_db
def test_an_installation_without_keys_says_what_they_are_for(panel: Client) -> None:
    assert "There are no API keys yet." in panel.get(KEYS).text
