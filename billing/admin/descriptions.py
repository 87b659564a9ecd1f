"""The standard descriptions that the Change balance page offers."""

from django.contrib import admin
from unfold.admin import ModelAdmin

from billing.models import StandardDescription


@admin.register(StandardDescription)
class StandardDescriptionAdmin(ModelAdmin):
    list_display = ["text", "position"]
    list_editable = ["position"]
    search_fields = ["text"]
    fields = ["text", "position"]
    show_full_result_count = False
