"""Who may give whom which rights.

One rule stands behind all of it: nobody but a superuser hands out a right that they do not hold
themselves. Whoever may set an operator's password can act as that operator, so managing an
operator asks for all of that operator's rights, too.
"""

from django.contrib.auth.models import Group, Permission
from django.db.models import Q, QuerySet

from users.models import User


def permissions_of(user: User) -> QuerySet[Permission]:
    """What `user` holds, directly and through groups; also while the user is inactive."""
    if user.is_superuser:
        return Permission.objects.all()
    return Permission.objects.filter(Q(user=user) | Q(group__user=user)).distinct()


def groups_given_by(actor: User) -> QuerySet[Group]:
    """The groups that `actor` may put operators into: those with no right beyond their own."""
    if actor.is_superuser:
        return Group.objects.all()
    not_theirs = Permission.objects.exclude(pk__in=permissions_of(actor).values("pk"))
    return Group.objects.exclude(permissions__in=not_theirs)


def may_manage_group(actor: User, group: Group) -> bool:
    return groups_given_by(actor).filter(pk=group.pk).exists()


def may_manage_operator(actor: User, operator: User) -> bool:
    if actor.is_superuser:
        return True
    if operator.is_superuser:
        return False
    return not permissions_of(operator).exclude(pk__in=permissions_of(actor).values("pk")).exists()
