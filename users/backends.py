"""Loads the operator of a request."""

from typing import Any, Final

from django.contrib.auth.backends import ModelBackend
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models.expressions import RawSQL

from users.models import User

# Names of permissions, own and of groups; NULL for superusers, who may do everything.
PERMISSIONS: Final = """
    CASE WHEN NOT users_user.is_superuser THEN ARRAY(
        SELECT content.app_label || '.' || permission.codename
        FROM auth_permission permission
        JOIN django_content_type content ON content.id = permission.content_type_id
        WHERE permission.id IN (
            SELECT own.permission_id FROM users_user_user_permissions own
            WHERE own.user_id = users_user.id
            UNION ALL
            SELECT granted.permission_id FROM users_user_groups member
            JOIN auth_group_permissions granted ON granted.group_id = member.group_id
            WHERE member.user_id = users_user.id
        )
    ) END
"""


class OperatorBackend(ModelBackend):
    """Django's backend. It reads an operator and all of the operator's permissions in one query."""

    def get_user(self, user_id: Any) -> User | None:
        names = RawSQL(PERMISSIONS, [], ArrayField(models.TextField()))  # noqa: S611 - constant
        user = User.objects.annotate(permission_names=names).filter(pk=user_id).first()
        if user is None or not self.user_can_authenticate(user):
            return None
        if user.permission_names is not None:
            user._perm_cache = set(user.permission_names)  # type: ignore[attr-defined] # where Django keeps them
        return user
