"""The pages for errors: not found, no permission, an expired form, a failure."""

import pytest
from django.template.loader import render_to_string
from django.test import Client

from tests.factories import AdministratorFactory
from users.models import User


def test_an_unknown_address_says_so(db: None, client: Client) -> None:
    client.force_login(AdministratorFactory())
    for address in ("/nowhere/", "/admin/users/user/999/transactions/"):
        response = client.get(address)
        assert response.status_code == 404
        assert "There is nothing here" in response.content.decode()


def test_a_missing_permission_says_who_can_give_it(
    client: Client, operator: User, db: None
) -> None:
    client.force_login(operator)
    response = client.get("/admin/billing/transaction/")
    assert response.status_code == 403
    assert "An administrator of the panel can give it to you." in response.content.decode()


def test_a_form_out_of_date_says_that_nothing_was_done(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(AdministratorFactory())
    response = client.post("/admin/users/user/1/change-balance/", {"amount": "1"})
    assert response.status_code == 403
    assert "The form was out of date. Nothing was done" in response.content.decode()


def test_an_error_says_what_to_look_at(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("by a test")

    monkeypatch.setattr("billing.reports.page", fail)
    client.force_login(AdministratorFactory())
    client.raise_request_exception = False
    response = client.get("/admin/billing/transaction/")
    assert response.status_code == 500
    assert "it is not your fault" in response.content.decode()
    assert render_to_string("500.html")  # Django gives this page no request and no context
