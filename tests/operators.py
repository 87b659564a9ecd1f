"""Operators with the rights that a test needs, and their requests."""

from typing import Any

from django.contrib.auth.models import Group, Permission
from django.test import Client

from tests.factories import OperatorFactory
from users.models import Operator, User


def operator_with(*permissions: str, group: str = "", **fields: object) -> Operator:
    """Creates an operator with these permissions ("users.view_user"), or in this existing group."""
    operator = OperatorFactory(**fields)
    operator.user_permissions.set([permission(name) for name in permissions])
    if group:
        operator.groups.add(Group.objects.get(name=group))
    return Operator.objects.get(pk=operator.pk)


def permission(name: str) -> Permission:
    app, codename = name.split(".")
    return Permission.objects.get(content_type__app_label=app, codename=codename)


def client_of(operator: User) -> Client:
    client = Client()
    client.force_login(operator)
    return client


def sent_by(answer: Any) -> dict[str, Any]:
    """Returns the fields that the form on a user's or operator's page sends if left unchanged."""
    values = {each.html_name: each.value() for each in answer.context["adminform"].form}
    return {
        name: "on" if value is True else value
        for name, value in values.items()
        if value not in (None, False)
    }
