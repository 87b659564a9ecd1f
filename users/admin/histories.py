"""History pages: who changed what, the latest first."""

from typing import Any

from django.contrib.admin.models import LogEntry
from django.http import HttpRequest

from users.admin.base import PanelAdmin


class AdminWithHistory(PanelAdmin):
    """Lists the latest change first, where Django would begin with the oldest."""

    def get_paginator(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> Any:
        if queryset.model is LogEntry:
            queryset = queryset.order_by("-action_time", "-pk")
        return super().get_paginator(request, queryset, *args, **kwargs)
