"""Who looks at the money pages."""

import pytest
from django.test import Client

from tests.factories import AdministratorFactory
from users.models import User


@pytest.fixture
def administrator(db: None) -> User:
    return AdministratorFactory()


@pytest.fixture
def panel(client: Client, administrator: User) -> Client:
    """The panel, as an administrator who is logged in."""
    client.force_login(administrator)
    return client
