"""The admin site: Unfold's, which reads all of its settings again for each page, and cheaper.

Unfold merges its settings with its defaults some thirty times a page, tries to import each text in
them, and lists all models for a sidebar that the panel does not have.
"""

from functools import cache
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin import sites
from django.http import HttpRequest
from django.utils.functional import SimpleLazyObject
from django.utils.module_loading import import_string
from unfold.apps import DefaultAppConfig
from unfold.settings import get_config
from unfold.sites import UnfoldAdminSite


class PanelSite(UnfoldAdminSite):
    _merged: dict[str, Any]  # the settings with Unfold's defaults
    _merged_from: dict[str, Any] | None = None

    def get_app_list(self, request: HttpRequest, app_label: str | None = None) -> Any:
        """Returns the models by application, for the few pages that show them."""
        return SimpleLazyObject(lambda: super(PanelSite, self).get_app_list(request, app_label))

    def get_sidebar_list(self, request: HttpRequest) -> list[dict[str, Any]]:
        """Returns what `billing.admin.navigation.sidebar` does: only what the operator may open."""
        entries: list[dict[str, Any]] = self._get_value(
            self._get_config("SIDEBAR")["navigation"], request
        )
        return entries

    def _get_config(self, key: str, *args: Any) -> Any:
        if self._merged_from is not settings.UNFOLD:
            self._merged, self._merged_from = get_config(), settings.UNFOLD
        value = self._merged.get(key)
        return self._get_value(value, *args) if value else None

    def _get_value(self, value: Any, *args: Any) -> Any:
        if isinstance(value, str):
            value = _imported(value)
        return value(*args) if callable(value) else value


@cache
def _imported(text: str) -> Any:
    """Returns what the text is the dotted name of, else the text."""
    try:
        return import_string(text)
    except (ImportError, ValueError):
        return text


class PanelLook(DefaultAppConfig):
    """Unfold, with the panel's own site."""

    default = False

    def ready(self) -> None:
        admin.site = sites.site = PanelSite()
