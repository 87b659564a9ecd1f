"""Which rights an operator may give, and which operators and groups they may manage.

The rule: only superusers may give a right that they do not hold themselves. Somebody who may set an
operator's password can act as that operator. So managing an operator needs all of that operator's
rights.
"""

from django.contrib.auth.models import Group, Permission
from django.db.models import Q, QuerySet

from users.models import User


def permissions_of(user: User) -> QuerySet[Permission]:
    """Returns the rights of `user`, direct and through groups, also of an inactive user."""
    if user.is_superuser:
        return Permission.objects.all()
    return Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()


def groups_given_by(actor: User) -> QuerySet[Group]:
    """Returns the groups that `actor` may put operators into: those without a right that `actor`
    lacks.
    """
    if actor.is_superuser:
        return Group.objects.all()
    not_theirs = Permission.objects.exclude(pk__in=permissions_of(actor).values("pk"))
    return Group.objects.exclude(permissions__in=not_theirs)


def may_manage_group(actor: User, group: Group) -> bool:
    return groups_given_by(actor).filter(pk=group.pk).exists()


def operators_managed_by(actor: User) -> QuerySet[User]:
    """Returns the operators without a right that `actor` lacks; `actor` is one of them."""
    operators = User.objects.filter(is_staff=True)
    if actor.is_superuser:
        return operators
    not_theirs = Permission.objects.exclude(pk__in=permissions_of(actor).values("pk"))
    return operators.filter(is_superuser=False).exclude(
        Q(user_permissions__in=not_theirs) | Q(groups__permissions__in=not_theirs)
    )


def may_manage_operator(actor: User, operator: User) -> bool:
    return operators_managed_by(actor).filter(pk=operator.pk).exists()
