"""Who looks at the money pages, and how long webhooks may take on a machine that stalls."""

import pytest
from django.test import Client

from billing.webhooks import network, sending
from tests.billing.receiver import PATIENCE_SECONDS
from tests.factories import AdministratorFactory
from users.models import User


@pytest.fixture(autouse=True)
def patience_with_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receivers here answer at once, if the machine lets them. Tests of haste set their own."""
    limits = ("CONNECT_SECONDS", "ATTEMPT_SECONDS", "ANSWER_SECONDS", "KEEP_ALIVE_SECONDS")
    for limit in limits:
        monkeypatch.setattr(network, limit, PATIENCE_SECONDS)
    monkeypatch.setattr(sending, "WORK_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def administrator(db: None) -> User:
    return AdministratorFactory()


@pytest.fixture
def panel(client: Client, administrator: User) -> Client:
    """The panel, as an administrator who is logged in."""
    client.force_login(administrator)
    return client
