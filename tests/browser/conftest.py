"""Opens the panel in a real Chromium.

Without Chromium the browser tests are skipped; in CI they fail instead. Each test has a fresh
browser profile and a committed database. It fails if a page reports an error or breaks its
Content-Security-Policy, or if verify_ledger finds a fault afterwards.
"""

import io
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    expect,
    sync_playwright,
)
from pytest_django.live_server_helper import LiveServer

from tests.browser.no_skips import pytest_runtest_makereport
from tests.browser.panel import midday_zone
from tests.factories import OperatorFactory
from users.models import User

__all__ = ["pytest_runtest_makereport"]  # pytest finds its hooks by their names here

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
REFUSED_RESOURCE = re.compile(r"Failed to load resource: .* status of 40[34]\b")
PATIENCE_MILLISECONDS = 300_000  # how long a test waits for a page before it fails


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("there is no Chromium here (on Debian: apt install chromium)")
    with pytest.MonkeyPatch.context() as environment:
        # Playwright keeps an event loop running in this thread. Django would refuse queries there.
        environment.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with sync_playwright() as playwright:
            expect.set_options(timeout=PATIENCE_MILLISECONDS)
            # Chromium's sandbox works neither for root nor in most containers.
            browser = playwright.chromium.launch(
                executable_path=path, args=["--no-sandbox"], timeout=PATIENCE_MILLISECONDS
            )
            yield browser
            browser.close()


class Windows:
    """Browser windows on the panel. Each call opens a fresh profile, logged in as `operator`."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.problems: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def __call__(self, operator: User | None = None, path: str = "", **options: Any) -> Page:
        options = {"viewport": DESKTOP, "base_url": self.url} | options
        context = self._browser.new_context(**options)
        context.set_default_timeout(PATIENCE_MILLISECONDS)
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self.problems.append(str(error.error)))
        self._contexts.append(context)
        if operator:
            client = Client()
            client.force_login(operator)
            session = client.cookies["sessionid"].value
            context.add_cookies([{"name": "sessionid", "value": session, "url": self.url}])
        page = context.new_page()
        if path:
            page.goto(path)
        return page

    def close(self) -> None:
        for context in self._contexts:
            context.close()

    def _on_console(self, message: ConsoleMessage) -> None:
        where = message.location.get("url")
        # The test itself checks the status of a page, so a 403 or 404 of the page is no problem.
        if REFUSED_RESOURCE.match(message.text) and message.page and message.page.url == where:
            return
        if message.type in ("error", "warning"):
            self.problems.append(f"{message.text} ({where})")


@pytest.fixture
def windows(chromium: Browser, live_panel: LiveServer) -> Iterator[Windows]:
    cache.clear()  # it may hold figures of the start page from another test's database
    windows = Windows(chromium, live_panel.url)
    try:
        yield windows
    finally:
        windows.close()
    assert not windows.problems, "the pages reported problems: " + "; ".join(windows.problems)
    call_command("verify_ledger", stdout=io.StringIO())


@pytest.fixture
def operator(committed_db: None) -> User:
    """An operator with every permission, in a time zone where it is about noon."""
    return OperatorFactory(
        first_name="Olga", last_name="Operator", is_superuser=True, time_zone=midday_zone()
    )
