import pytest

from tests.api.panel.calls import World
from tests.api.panel.client import Program
from tests.factories import AdministratorFactory, PlanFactory, user_with
from users.models import User


@pytest.fixture
def administrator(db: None) -> User:
    return AdministratorFactory(email="admin@example.com")


@pytest.fixture
def program(administrator: User) -> Program:
    """A program with the session of an administrator."""
    return Program(administrator)


@pytest.fixture
def world(db: None) -> World:
    user = user_with(real="100", bonus="20", email="ada@example.com")
    return World(user, PlanFactory(name="Business", price="12.55"))
