"""The pages of operators and groups, with their History tab."""

from collections.abc import Sequence
from typing import Any, Final, cast

from django.contrib import admin
from django.contrib.auth.models import Group
from django.http import HttpRequest

from billing import operations
from billing.admin.history import WithHistory
from billing.models import Channel, Subject
from users.admin.groups import GroupAdmin
from users.admin.operators import OperatorAdmin
from users.models import Operator, User

PASSWORD: Final = "password"  # noqa: S105 - the name of a field


class RecordedByPage(WithHistory):
    """Records changes of operators and groups, which Django's own forms save."""

    def construct_change_message(
        self,
        request: HttpRequest,
        form: Any,
        formsets: Any,
        add: bool = False,  # noqa: FBT001, FBT002 - Django's signature
    ) -> list[str]:
        """Returns the labels of the changed fields."""
        return [_label(form, name) for name in form.changed_data]

    def log_addition(self, request: HttpRequest, obj: Any, message: list[str]) -> None:
        operations.staff.record_added(obj, **_by(request))

    def log_change(self, request: HttpRequest, obj: Any, message: list[str]) -> None:
        if message == [PASSWORD]:
            operations.staff.record_password_set(obj, **_by(request))
        elif message:
            operations.staff.record_changed(obj, message, **_by(request))

    def log_deletions(self, request: HttpRequest, queryset: Any) -> None:
        for row in queryset:
            operations.staff.record_deleted(row, **_by(request))


def _label(form: Any, name: str) -> str:
    if name == PASSWORD:  # the password page has other field names
        return PASSWORD
    return str(form.fields[name].label or name.replace("_", " ")).lower()


def _by(request: HttpRequest) -> dict[str, Any]:
    return {"actor": cast(User, request.user), "channel": Channel.PANEL}


@admin.register(Operator)
class BillingOperatorAdmin(RecordedByPage, OperatorAdmin):
    history_subject = Subject.OPERATOR

    def set_active(self, request: HttpRequest, ids: Sequence[int], *, active: bool) -> int:
        return operations.customers.set_active(
            Subject.OPERATOR, ids, is_active=active, **_by(request)
        )


@admin.register(Group)
class BillingGroupAdmin(RecordedByPage, GroupAdmin):
    history_subject = Subject.GROUP
