"""Forms that are sent after the session has ended."""

import json
import re
import secrets
from typing import Any

import pytest
from django.test import Client

from billing.models import Transaction
from tests.factories import PASSWORD, AdministratorFactory, user_with
from users.models import User

pytestmark = pytest.mark.django_db

TYPED = {
    "description": "Bank transfer 4711 <b>",
    "amount": "12.50",
    "bonus_amount": "",
    "key": "0123456789abcdef",
    "csrfmiddlewaretoken": "x",
    "password": "hunter2",
}


@pytest.fixture
def operator() -> User:
    return AdministratorFactory(email="root@example.com")


@pytest.fixture
def customer() -> User:
    return user_with("5")


def send(client: Client, path: str, fields: dict[str, Any] = TYPED) -> str:
    answer = client.post(path, fields)
    assert answer.status_code == 200
    assert "Nothing was done or posted." in answer.content.decode()
    return answer.content.decode()


def carried(page: str) -> str:
    found = re.search(r'name="unsent" value="([^"]*)"', page)
    return found[1] if found else ""


def log_in(client: Client, page: str, **given: str) -> Any:
    action = re.search(r'<form action="([^"]+)" method="post" id="login-form"', page)
    assert action is not None
    form = {"username": "root@example.com", "password": PASSWORD, "unsent": carried(page)}
    return client.post(action[1].replace("&amp;", "&"), form | given)


def filled_in(page: str) -> dict[str, list[str]] | None:
    found = re.search(r'<script id="unsent-fields" type="application/json">(.*?)</script>', page)
    return json.loads(found[1]) if found else None


def test_it_is_found_again_after_the_login_as_it_was_typed(operator: User, customer: User) -> None:
    client = Client()
    path = f"/admin/users/user/{customer.pk}/change-balance/"
    answer = log_in(client, send(client, path))
    assert (answer.status_code, answer["Location"]) == (302, path)
    page = client.get(path).content.decode()
    assert "Nothing was done or posted." in page
    kept = {name: [value] for name, value in TYPED.items() if "password" not in name}
    del kept["csrfmiddlewaretoken"]
    assert filled_in(page) == kept
    assert "<li>Description: Bank transfer 4711 &lt;b&gt;</li>" in page  # without scripts
    assert "0123456789abcdef</li>" not in page
    assert not Transaction.objects.filter(user=customer, amount="12.5").exists()
    assert filled_in(client.get(path).content.decode()) is None  # once


def test_a_wrong_password_loses_nothing(operator: User, customer: User) -> None:
    client = Client()
    path = f"/admin/users/user/{customer.pk}/change-balance/?device=7"
    first = send(client, path)
    again = log_in(client, first, password="wrong")
    assert carried(again.content.decode()) == carried(first)
    assert log_in(client, first)["Location"] == path
    assert filled_in(client.get(path).content.decode()) is not None


def test_it_is_put_into_no_other_page(operator: User, customer: User) -> None:
    client = Client()
    log_in(client, send(client, f"/admin/users/user/{customer.pk}/change-balance/"))
    assert filled_in(client.get("/admin/my-time-zone/").content.decode()) is None


@pytest.mark.parametrize("unsent", ["", "nonsense", "eyJhIjoxfQ:1abc:forged"])
def test_what_was_not_made_here_is_not_put_into_a_page(
    operator: User, customer: User, unsent: str
) -> None:
    client = Client()
    page = send(client, f"/admin/users/user/{customer.pk}/change-balance/")
    assert log_in(client, page, unsent=unsent).status_code == 302
    assert "unsent" not in client.session


def test_what_is_too_long_is_said_not_to_be_kept(operator: User, customer: User) -> None:
    client = Client()
    path = f"/admin/users/user/{customer.pk}/change/"
    page = send(client, path, {"comment": secrets.token_hex(200_000)})
    assert carried(page) == ""
    assert "too long to be kept" in page


def test_a_form_from_another_site_is_refused_and_not_carried_along(customer: User) -> None:
    client = Client(enforce_csrf_checks=True)
    answer = client.post(f"/admin/users/user/{customer.pk}/change-balance/", TYPED)
    assert answer.status_code == 403
    assert "unsent" not in answer.content.decode()


def test_nothing_is_stored_for_who_is_not_logged_in(customer: User) -> None:
    client = Client()
    send(client, f"/admin/users/user/{customer.pk}/change-balance/")
    assert "sessionid" not in client.cookies
