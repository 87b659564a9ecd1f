"""The panel below a prefix (SCRIPT_NAME), sharing a host with others: all addresses have it."""

import json
import re
import subprocess
from collections import deque
from collections.abc import Iterator
from email.message import Message
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener

import pytest

from tests.config.processes import PATIENCE_SECONDS, Serving, manage

PREFIX = "/billing"
ADMINISTRATOR = """
from users.models import User
User.objects.create_superuser("root@example.com", "correct horse")
"""
# Not followed: they log out, or are files to download.
NOT_OPENED = re.compile(r"/logout/|/user/export|\.csv|\.xlsx")


class NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None


class Addresses(HTMLParser):
    """Collects the addresses in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("href", "src", "action", "formaction", "hx-get", "hx-post") and value:
                self.found.append(value)


class Answer(NamedTuple):
    status: int
    headers: Message
    content: bytes


class Browser:
    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}"
        self.jar = CookieJar()
        self.opener = build_opener(HTTPCookieProcessor(self.jar), NoRedirects)

    def open(self, path: str, data: bytes | None = None, **headers: str) -> Answer:
        request = Request(self.base + path, data, headers)  # noqa: S310 - of this machine
        try:
            answer = self.opener.open(request, timeout=PATIENCE_SECONDS)
        except HTTPError as refusal:
            answer = refusal
        with answer:
            return Answer(answer.status, answer.headers, answer.read())

    def log_in(self) -> None:
        path = f"{PREFIX}/admin/login/"
        page = self.open(path).content.decode()
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert token is not None
        form = {"username": "root@example.com", "password": "correct horse"}
        form |= {"csrfmiddlewaretoken": token[1], "next": f"{PREFIX}/admin/"}
        answer = self.open(path, urlencode(form).encode(), Referer=self.base + path)
        assert (answer.status, answer.headers["Location"]) == (302, f"{PREFIX}/admin/")


@pytest.fixture(scope="module")
def panel(tmp_path_factory: pytest.TempPathFactory, prepared_data_dir: Path) -> Iterator[Serving]:
    data_dir = tmp_path_factory.mktemp("prefix") / "var"
    subprocess.run(["cp", "-a", prepared_data_dir, data_dir], check=True)  # with its owner
    with Serving(data_dir, SCRIPT_NAME=PREFIX) as panel:
        made = manage("shell", "-v0", "-c", ADMINISTRATOR, DATA_DIR=str(data_dir))
        assert made.returncode == 0, made.stderr
        yield panel
        panel.press_ctrl_c()


def test_no_page_names_an_address_without_the_prefix(panel: Serving) -> None:
    browser = Browser(panel.port)
    browser.log_in()
    assert {cookie.path for cookie in browser.jar} == {f"{PREFIX}/"}
    waiting, seen, kinds = deque([f"{PREFIX}/"]), {f"{PREFIX}/"}, set()
    while waiting:
        path = waiting.popleft()
        answer = browser.open(path)
        assert answer.status in (200, 302), f"{answer.status} at {path}"
        found = [answer.headers["Location"]] if answer.status == 302 else []
        if answer.headers.get_content_type() == "text/html":
            found += Addresses(answer.content.decode()).found
        for address in found:
            there = urlsplit(urljoin(browser.base + path, address))
            if there.scheme != "http" or there.netloc != urlsplit(browser.base).netloc:
                continue
            assert there.path.startswith(f"{PREFIX}/"), f"{address} in {path}"
            kind = re.sub(r"\d+", "0", there.path)
            if kind not in kinds and not NOT_OPENED.search(there.path):
                kinds.add(kind)
                seen.add(there.path)
                waiting.append(there.path)
    assert f"{PREFIX}/static/billing/panel.css" in seen
    assert f"{PREFIX}/admin/users/user/0/transactions/" in kinds
    assert len(seen) > 40


def test_the_api_names_no_address_without_the_prefix(panel: Serving) -> None:
    key = manage(
        "create_api_key", "--owner", "root@example.com", "--name", "Prefix",
        DATA_DIR=str(panel.data_dir),
    ).stdout.strip()  # fmt: skip
    browser = Browser(panel.port)

    def call(path: str, body: dict[str, Any] | None = None) -> Answer:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        return browser.open(path, data, **headers)

    users = f"{PREFIX}/api/v1/users"
    made = call(users, {"email": "ada@example.net"})
    assert (made.status, made.headers["Location"][: len(users)]) == (201, users)
    user = made.headers["Location"]
    change = {"description": "Paid at the desk", "amount": "5"}
    posted = call(f"{user}/balance-changes", change)
    assert posted.headers["Location"] == f"{user}/transactions/1"
    for address in (user, posted.headers["Location"]):
        assert call(address).status == 200
    refused = call(f"{user}/balance-changes", change | {"amount": "-6"})
    problem = json.loads(refused.content)
    assert problem["type"].startswith(f"{PREFIX}/api/v1/problems#")
    assert call(problem["type"]).status == 200
    described = json.loads(call(f"{PREFIX}/api/v1/openapi.json").content)
    assert f"({PREFIX}/api/v1/problems)" in described["info"]["description"]
    login = urlencode({"login": "root@example.com", "password": "correct horse"}).encode()
    assert json.loads(browser.open(f"{PREFIX}/v2/panel/account/auth", login).content)["success"]


def test_a_proxy_may_take_the_prefix_off(panel: Serving) -> None:
    browser = Browser(panel.port)
    assert browser.open("/healthz").status == browser.open(f"{PREFIX}/healthz").status == 200
    assert browser.open("/metrics").status == browser.open(f"{PREFIX}/metrics").status == 200
    page = browser.open("/admin/login/").content.decode()
    assert f'href="{PREFIX}/static/billing/panel.css"' in page
    assert browser.open("/static/billing/panel.css").status == 200
    # An address that only begins with the same letters is not below the prefix.
    assert browser.open(f"{PREFIX}s/admin/login/").status == 404
