"""The standard descriptions that the Change balance page offers."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from billing.models import StandardDescription
from users.admin.histories import AdminWithHistory


@admin.register(StandardDescription)
class StandardDescriptionAdmin(AdminWithHistory):
    list_display = ["text", "position"]
    list_editable = ["position"]
    search_fields = ["text"]
    fields = ["text", "position"]
    show_full_result_count = False

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        return False  # there is no filter; an address cannot bring a pattern of its own
