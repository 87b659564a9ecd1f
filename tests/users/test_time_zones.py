import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.utils import timezone

from tests.factories import OperatorFactory
from tests.operators import client_of
from users.middleware import operator_time_zone
from users.models import User

pytestmark = pytest.mark.django_db


def zone_seen_by(user: User) -> str:
    seen = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(timezone.get_current_timezone_name())
        return HttpResponse()

    request = HttpRequest()
    request.user = user
    operator_time_zone(view)(request)
    assert timezone.get_current_timezone_name() == "UTC", "it must not outlive the request"
    return seen[0]


def test_pages_are_shown_in_the_operators_time_zone() -> None:
    assert zone_seen_by(OperatorFactory(time_zone="Asia/Tokyo")) == "Asia/Tokyo"


def test_without_one_it_is_the_installations() -> None:
    assert zone_seen_by(OperatorFactory(time_zone="")) == "UTC"


def test_a_time_zone_that_no_longer_exists_does_not_lock_the_operator_out() -> None:
    assert zone_seen_by(OperatorFactory(time_zone="Mars/Olympus_Mons")) == "UTC"


def test_operators_choose_their_own_without_any_permission() -> None:
    operator = OperatorFactory()
    client = client_of(operator)
    answer = client.post("/admin/my-time-zone/", {"time_zone": "europe/berlin"})
    assert answer.status_code == 302
    operator.refresh_from_db()
    assert operator.time_zone == "Europe/Berlin"
    assert "(Europe/Berlin)" in client.get("/admin/my-time-zone/").text


def test_an_unknown_time_zone_is_a_message_at_the_field() -> None:
    operator = OperatorFactory()
    answer = client_of(operator).post("/admin/my-time-zone/", {"time_zone": "Europe/Nowhere"})
    assert answer.status_code == 200
    assert "not a known time zone" in str(answer.context["form"].errors["time_zone"])
    operator.refresh_from_db()
    assert operator.time_zone == ""


def test_the_page_changes_nothing_but_the_time_zone() -> None:
    operator = OperatorFactory(first_name="Ada")
    client_of(operator).post(
        "/admin/my-time-zone/",
        {"time_zone": "Asia/Tokyo", "is_superuser": "on", "first_name": "Eve"},
    )
    operator.refresh_from_db()
    assert (operator.time_zone, operator.is_superuser, operator.first_name) == (
        "Asia/Tokyo",
        False,
        "Ada",
    )


def test_it_asks_for_a_login() -> None:
    assert Client().get("/admin/my-time-zone/").status_code == 302
