import pytest
from django.test import Client

from tests.factories import PASSWORD, OperatorFactory, UserFactory
from users.models import User

pytestmark = pytest.mark.django_db


def log_in(email: str, password: str = PASSWORD) -> tuple[bool, str]:
    """Returns True if the login worked, and the errors of the page."""
    client = Client()
    answer = client.post("/admin/login/", {"username": email, "password": password})
    logged_in = answer.status_code == 302
    assert logged_in == ("_auth_user_id" in client.session)
    return logged_in, "" if logged_in else " ".join(answer.context["form"].non_field_errors())


@pytest.mark.parametrize("typed", ["ada@example.com", "ADA@Example.Com", " ada@example.com "])
def test_an_operator_logs_in_without_regard_to_case(typed: str) -> None:
    OperatorFactory(email="Ada@example.com")
    assert log_in(typed) == (True, "")


def test_login_leads_to_the_start_page() -> None:
    OperatorFactory(email="ada@example.com")
    answer = Client().post("/admin/login/", {"username": "ada@example.com", "password": PASSWORD})
    assert answer["Location"] == "/admin/"


def test_every_failed_login_gets_the_same_answer() -> None:
    OperatorFactory(email="works@example.com")
    OperatorFactory(email="left@example.com", is_active=False)
    customer = UserFactory(email="customer@example.com")
    customer.set_password(PASSWORD)
    customer.save()
    answers = {
        log_in("works@example.com", "wrong"),
        log_in("left@example.com"),
        log_in("customer@example.com"),
        log_in("nobody@example.com"),
    }
    assert answers == {
        (False, "Please enter the e-mail address and password of an active operator.")
    }


def test_a_login_with_a_nul_is_refused_and_not_an_error() -> None:
    assert not log_in("ada\0@example.com")[0]


def test_deactivating_an_operator_ends_their_session() -> None:
    operator = OperatorFactory()
    client = Client()
    client.force_login(operator)
    assert client.get("/admin/my-time-zone/").status_code == 200
    User.objects.filter(pk=operator.pk).update(is_active=False)
    assert client.get("/admin/my-time-zone/").status_code == 302
