"""Whatever stands behind the question mark of an address, no page fails at it."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from django.db import transaction
from django.test import Client

from tests.every_page import PanelPage, Things, pages
from users.models import User

pytestmark = pytest.mark.django_db

# What Django's and Unfold's pages read, and filters by columns that no page offers.
KNOWN_TO_DJANGO = (
    "_to_field", "_popup", "_changelist_filters", "_facets", "p", "o", "q", "all", "e", "next",
    "id__in", "pk__gt", "created_at__year", "email__regex", "user__password__startswith",
    "balance__real__gt", "is_active__exact", "status",
)  # fmt: skip
HOSTILE = ("", "\0", "9" * 30, "-1", "2026-02-30", "[('%", "ß" * 300)


def names_on(html: str) -> set[str]:
    """The parameters that a page itself sends: by its fields and by its links."""
    names = set(re.findall(r'<(?:input|select|textarea)[^>]* name="([^"]+)"', html))
    for query in re.findall(r'href="[^"?]*\?([^"#]+)"', html):
        names |= {name for name, _ in parse_qsl(query.replace("&amp;", "&"))}
    return names - {"csrfmiddlewaretoken"}


def hostile_queries(names: set[str]) -> Iterator[str]:
    for value in HOSTILE:
        # Django's own one by one: the first that it refuses keeps it from reading the others.
        yield from (urlencode([(name, value)]) for name in KNOWN_TO_DJANGO[:8])
        yield urlencode([(name, value) for name in sorted(names)])
    for name in KNOWN_TO_DJANGO[8:]:
        yield urlencode([(name, "9" * 30)])
    yield urlencode([(name, value) for name in sorted(names) for value in ("1", "x")])
    yield "=&&?;%ff=%00&%"


def is_listed(page: PanelPage) -> bool:
    """Whether the page is one that is looked at: logging out ends the test."""
    return page.name != "logout"


def test_no_query_string_makes_a_page_fail(administrator: User) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(administrator)

    def status(path: str) -> tuple[int, str]:
        with transaction.atomic():  # what the database refuses to one must not spoil the next
            answer: Any = client.get(path)
            text = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return answer.status_code, text.decode(errors="replace")

    failed = []
    for page in filter(is_listed, pages(Things(administrator))):
        code, html = status(page.path)
        assert code < 500, page
        for query in hostile_queries(names_on(html)):
            code, _ = status(f"{page.path}?{query}")
            if code >= 500:
                failed.append(f"{page.path}?{query}")
    assert failed == []
