"""The ready-made groups: what each may do. (Older migrations have lists of their time.)

`grant_defaults` runs after each migrate. It grants each permission of this table once, when the
permission is new in the table. Later changes of an installation to a group are kept. A group that
was renamed or deleted is not made again.
"""

from collections.abc import Mapping
from typing import Any, Final

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import DEFAULT_DB_ALIAS, connections, transaction

from billing.models import GroupDefault

_VIEWER: Final = frozenset(
    {
        "users.view_user",
        "billing.view_balance",
        "billing.view_chargingrun",
        "billing.view_plan",
        "billing.view_service",
        "billing.view_batch",
        "billing.view_reason",
        "billing.view_subscription",
        "billing.view_transaction",
    }
)
_BILLING_OPERATOR: Final = _VIEWER | {
    "users.add_user",
    "users.change_user",
    "billing.change_balance",
    "billing.add_subscription",
    "billing.change_subscription",
    "billing.view_lowbalancethreshold",
    "billing.view_voucher",
    "billing.change_lowbalancethreshold",
}
_ADMINISTRATOR: Final = _BILLING_OPERATOR | {
    "auth.view_group",
    "auth.add_group",
    "auth.change_group",
    "auth.delete_group",
    "users.view_operator",
    "users.add_operator",
    "users.change_operator",
    "users.merge_user",
    "users.forget_user",
    "billing.view_apikey",
    "billing.add_apikey",
    "billing.change_apikey",
    "billing.add_plan",
    "billing.change_plan",
    "billing.delete_plan",
    "billing.add_service",
    "billing.change_service",
    "billing.delete_service",
    "billing.add_reason",
    "billing.change_reason",
    "billing.delete_reason",
    "billing.add_voucher",
    "billing.change_voucher",
    "billing.view_userdefaults",
    "billing.change_userdefaults",
    "billing.view_webhookdelivery",
    "billing.change_webhookdelivery",
    "billing.view_webhookendpoint",
    "billing.add_webhookendpoint",
    "billing.change_webhookendpoint",
    "billing.delete_webhookendpoint",
}
READY_MADE: Final[Mapping[str, frozenset[str]]] = {
    "Viewer": _VIEWER,
    "Billing operator": _BILLING_OPERATOR,
    "Administrator": _ADMINISTRATOR,
}


def grant_defaults(
    groups: Mapping[str, frozenset[str]] = READY_MADE, *, using: str = DEFAULT_DB_ALIAS
) -> None:
    """Grants the ready-made groups what they have not been granted before.

    `groups` maps a group's name to its permissions, like "billing.view_balance"; `using` is the
    alias of the database.
    """
    defaults, made = GroupDefault.objects.using(using), Group.objects.using(using)
    granted: dict[str, set[str]] = {}
    for name, permission in defaults.values_list("group", "permission"):
        granted.setdefault(name, set()).add(permission)
    with transaction.atomic(using=using):
        for name, permissions in groups.items():
            new = permissions - granted.get(name, set())
            if not new:
                continue
            group = made.filter(name=name).first()
            if group is None and name not in granted:
                group = made.create(name=name)
            if group is not None:
                group.permissions.add(*_permissions(new, using))
            defaults.bulk_create(GroupDefault(group=name, permission=each) for each in sorted(new))


def _permissions(names: frozenset[str], using: str) -> list[Permission]:
    """Returns these permissions. Raises LookupError for one that does not exist."""
    found = []
    rows = Permission.objects.using(using)
    for name in sorted(names):
        app_label, codename = name.split(".")
        permission = rows.filter(content_type__app_label=app_label, codename=codename).first()
        if permission is None:
            raise LookupError(f"There is no permission {name}.")
        found.append(permission)
    return found


def grant_defaults_after_migrate(*, using: str, **_: Any) -> None:
    """Receives `post_migrate`."""
    tables = connections[using].introspection.table_names()
    if GroupDefault._meta.db_table not in tables:
        return  # migrated to a version before there was this table
    # Those of other applications may not have been made yet.
    for label in ("auth", "users", "billing"):
        create_permissions(apps.get_app_config(label), verbosity=0, using=using)
    grant_defaults(using=using)
