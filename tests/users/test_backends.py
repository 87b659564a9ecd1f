"""An operator is read with all permissions, in one query."""

from typing import Any

import pytest
from django.contrib.auth.backends import ModelBackend
from django.contrib.auth.models import Group

from tests.factories import OperatorFactory
from tests.operators import client_of, operator_with, permission
from users.backends import OperatorBackend
from users.models import User

pytestmark = pytest.mark.django_db


def loaded(user: User) -> Any:
    found = OperatorBackend().get_user(user.pk)
    assert found is not None
    return found


def test_permissions_are_those_of_the_operator_and_of_all_groups(
    django_assert_num_queries: Any,
) -> None:
    operator = operator_with("users.view_user", "billing.change_balance", group="Viewer")
    operator.groups.add(Group.objects.get(name="Billing operator"))
    expected = ModelBackend().get_all_permissions(User.objects.get(pk=operator.pk))
    assert {"users.view_user", "billing.change_balance", "billing.view_transaction"} < expected
    with django_assert_num_queries(1):
        found = loaded(operator)
        assert found.get_all_permissions() == expected
        assert found.has_perm("billing.change_balance")
        assert not found.has_perm("users.merge_user") or "users.merge_user" in expected
        assert not found.has_perm("auth.delete_group")


def test_an_operator_without_permissions_has_none(django_assert_num_queries: Any) -> None:
    operator = OperatorFactory()
    with django_assert_num_queries(1):
        assert not loaded(operator).has_perm("users.view_user")


def test_a_superuser_may_do_everything() -> None:
    boss = loaded(OperatorFactory(is_superuser=True))
    assert boss.has_perm("users.view_user")
    assert boss.get_all_permissions() == ModelBackend().get_all_permissions(boss)


def test_nobody_is_read_who_is_inactive_or_unknown() -> None:
    assert OperatorBackend().get_user(OperatorFactory(is_active=False).pk) is None
    assert OperatorBackend().get_user(0) is None


def test_a_permission_counts_from_the_next_request_on_and_so_does_its_end() -> None:
    operator = operator_with("users.view_user")
    client = client_of(operator)
    assert client.get("/admin/billing/transaction/").status_code == 403
    operator.user_permissions.add(permission("billing.view_transaction"))
    assert client.get("/admin/billing/transaction/").status_code == 200
    operator.user_permissions.clear()
    assert client.get("/admin/users/user/").status_code == 403
