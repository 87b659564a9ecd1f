"""A client for the panel's pages, and longer time limits for webhooks on slow machines."""

import pytest
from django.test import Client

from billing.webhooks import network, sending
from tests.billing.receiver import PATIENCE_SECONDS
from tests.factories import AdministratorFactory
from users.models import User


@pytest.fixture(autouse=True)
def patience_with_receivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raises the time limits of webhooks, for slow machines. Tests about limits set their own."""
    limits = ("CONNECT_SECONDS", "ATTEMPT_SECONDS", "ANSWER_SECONDS", "KEEP_ALIVE_SECONDS")
    for limit in limits:
        monkeypatch.setattr(network, limit, PATIENCE_SECONDS)
    monkeypatch.setattr(sending, "WORK_SECONDS", PATIENCE_SECONDS)


@pytest.fixture
def administrator(db: None) -> User:
    return AdministratorFactory()


@pytest.fixture
def panel(client: Client, administrator: User) -> Client:
    """A client of the panel that is logged in as an administrator."""
    client.force_login(administrator)
    return client
