"""Two operators change the same user, or take the same e-mail address, at the same moment."""

from threading import Event, Thread
from typing import Any

import pytest
from django.db import connection, transaction

from tests.billing.test_charging_races import until_somebody_waits_for_this
from tests.conftest import Connections
from tests.factories import UserFactory
from tests.operators import client_of, operator_with, sent_by
from users.models import User


@pytest.mark.usefixtures("committed_db")
def test_of_two_who_take_the_same_address_at_once_the_second_gets_the_forms_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first user is committed after the second's form is checked, and before it is saved."""
    client = client_of(operator_with("users.view_user", "users.add_user", "users.change_user"))
    save = User.save

    def first() -> None:
        UserFactory(email="NEW@example.com")
        connection.close()

    def save_second(self: User, *args: Any, **kwargs: Any) -> None:
        monkeypatch.setattr(User, "save", save)
        somebody = Thread(target=first)
        somebody.start()
        somebody.join()
        self.save(*args, **kwargs)

    monkeypatch.setattr(User, "save", save_second)
    answer = client.post(
        "/admin/users/user/add/", {"email": "new@example.com", "legal_type": "individual"}
    )
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors == {
        "email": ["Another user has this e-mail address."]
    }
    assert User.objects.filter(is_staff=False).count() == 1


def test_who_is_deactivated_while_a_page_is_saved_stays_so(connections: Connections) -> None:
    user = UserFactory()
    client = client_of(operator_with("users.view_user", "users.change_user"))
    page = f"/admin/users/user/{user.pk}/change/"
    opened = sent_by(client.get(page)) | {"comment": "Called"}
    deactivated = Event()

    def work(place: int) -> Any:
        if place:
            deactivated.wait()
            return client.post(page, opened)
        with transaction.atomic():
            User.objects.filter(pk=user.pk).update(is_active=False)
            deactivated.set()
            return until_somebody_waits_for_this()

    _, saved = connections(2, work)
    assert saved.error is None
    user.refresh_from_db()
    assert (user.comment, user.is_active) == ("Called", False)
