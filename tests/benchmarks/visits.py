"""Requests pages in this process, and counts what they cost."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any, Final

from django.core.cache import cache
from django.db import connection
from django.test import Client

from billing import authority
from users.models import User

LOGIN: Final = "visitor@example.com"


@dataclass(frozen=True)
class Visit:
    """Milliseconds of the whole page, of Python's processor time and of the database."""

    ms: float
    python_ms: float
    database_ms: float
    statements: int
    size: int


class Visitor:
    """An operator with all rights, and a program with an API key."""

    def __init__(self) -> None:
        operator = User.objects.with_email(LOGIN).first()
        operator = operator or User.objects.create_superuser(LOGIN, "visitor")
        self.client = Client(SERVER_NAME="localhost")
        self.client.force_login(operator)
        _, self.key = authority.issue_key(name="Visitor", owner=operator, created_by=operator)

    def visit(self, address: str, *, cold: bool = False) -> Visit:
        """Requests a page; `cold`: with nothing in the panel's cache."""
        if cold:
            cache.clear()
        in_database, statements = 0.0, 0

        def timed(execute: Callable[..., Any], *arguments: Any) -> Any:
            nonlocal in_database, statements
            started = perf_counter()
            try:
                return execute(*arguments)
            finally:
                in_database += perf_counter() - started
                statements += 1

        headers = {"Authorization": f"Bearer {self.key}"} if address.startswith("/api/") else {}
        started, processor = perf_counter(), process_time()
        with connection.execute_wrapper(timed):
            response = self.client.get(address, headers=headers)
        elapsed, used = perf_counter() - started, process_time() - processor
        if response.status_code != 200:
            raise SystemExit(f"{address} answered {response.status_code}.")
        return Visit(
            elapsed * 1000, used * 1000, in_database * 1000, statements, len(response.content)
        )

    def stream(self, address: str, *, rows: int) -> tuple[int, float]:
        """Reads lines of a streamed file; returns how many, and the seconds for them."""
        lines = 0
        started = perf_counter()
        response = self.client.get(address)
        content: Any = iter(response.streaming_content)
        for chunk in content:
            lines += chunk.count(b"\n")
            if lines >= rows:
                break
        seconds = perf_counter() - started
        with suppress(RuntimeError):  # a generator that is closed while it runs
            response.close()
        return lines, seconds


def tab_of(user: User) -> str:
    return f"/admin/users/user/{user.pk}/transactions/"


USERS_LIST = "/admin/users/user/"
START_PAGE = "/admin/"
ALL_TRANSACTIONS = "/admin/billing/transaction/"
