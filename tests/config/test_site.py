"""The admin site reads Unfold's settings once, and again if they change."""

from typing import Any
from unittest.mock import Mock

import pytest
from django.contrib import admin
from django.test import RequestFactory

from config import site
from tests.factories import OperatorFactory
from tests.operators import operator_with
from users.models import User

pytestmark = pytest.mark.django_db


def context(user: User) -> dict[str, Any]:
    request = RequestFactory().get("/admin/")
    request.user = user
    request.resolver_match = None
    found: dict[str, Any] = admin.site.each_context(request)
    return found


def test_settings_are_merged_once(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    boss = OperatorFactory(is_superuser=True)
    context(boss)
    merge = Mock(wraps=site.get_config)
    monkeypatch.setattr(site, "get_config", merge)
    assert context(boss)["site_title"] == settings.SITE_NAME
    assert merge.call_count == 0
    settings.UNFOLD = settings.UNFOLD | {"SITE_TITLE": "Another name"}
    assert context(boss)["site_title"] == "Another name"
    assert merge.call_count == 1


def test_models_are_listed_only_for_pages_that_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Mock(return_value={})
    monkeypatch.setattr(admin.site, "_build_app_dict", build)
    found = context(OperatorFactory(is_superuser=True))
    assert build.call_count == 0
    assert list(found["available_apps"]) == []
    assert build.call_count == 1


def test_the_sidebar_has_what_an_operator_may_open() -> None:
    [group] = context(operator_with("users.view_user"))["sidebar_navigation"]
    assert [entry["title"] for entry in group["items"]] == ["Start page", "Users"]
