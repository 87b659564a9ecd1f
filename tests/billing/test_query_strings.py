"""No query string makes a page of the panel fail."""

import logging
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

TABS = ("users_user_transactions", "users_user_subscriptions")
HOSTILE = ("\0", "9" * 30, "", "-1", "2026-02-30", "[('%", "ß" * 300)
# Parameters that Django's and Unfold's pages read. One that is refused would hide the others, so
# there are several query strings.
OF_DJANGO = (
    *("_to_field=", "_to_field=%00", "_to_field=password&_popup=1", "e=1&_popup=x"),
    "_changelist_filters=%3D%26%00&_facets=x&p=x&all=&_saveasnew=&=&&?;%ff=%00&%",
)
# Parameters that lists read, and filters by columns that no page offers.
OF_LISTS = (
    *("p=-1", f"p={'9' * 30}", "p=0&all=", "o=99.-1.x", f"o={'9' * 30}", "o=", "q=%00", "q=%FF"),
    *("id__in=x", "id__in=", "pk__gt=x", "created_at__year=x", "created_at__gte=2026-02-30"),
    *("email__regex=%5B", "user__password__startswith=p", "balance__real__gt=NaN", "id__nope=1"),
    *("is_active__exact=x", "status=a&status=b", "id=", "__=1", "user__=1", "id__isnull=x"),
)


def names_on(html: str) -> set[str]:
    """Returns the parameters that a page's own fields and links send."""
    names = set(re.findall(r'<(?:input|select|textarea)[^>]* name="([^"]+)"', html))
    for query in re.findall(r'href="[^"?]*\?([^"#]+)"', html):
        names |= {name for name, _ in parse_qsl(query.replace("&amp;", "&"))}
    return names - {"csrfmiddlewaretoken"}


def hostile_queries(page: PanelPage, names: set[str], *, is_djangos_list: bool) -> Iterator[str]:
    yield from OF_DJANGO
    yield urlencode([(name, HOSTILE[0]) for name in sorted(names)])
    if "changelist" in page.name or page.name in TABS:
        for value in HOSTILE[1:]:
            yield urlencode([(name, value) for name in sorted(names)])
        yield urlencode([(name, value) for name in sorted(names) for value in ("1", "x")])
        yield from (urlencode([(name, HOSTILE[0])]) for name in sorted(names))
    if is_djangos_list:
        yield from OF_LISTS


def is_asked(page: PanelPage) -> bool:
    """False for logging out, and for addresses without a name, which only lead to other pages."""
    return page.name not in ("", "logout")


def test_no_query_string_makes_a_page_fail(
    administrator: User, caplog: pytest.LogCaptureFixture
) -> None:
    for refusals in ("django.request", "django.security"):  # they log tracebacks
        caplog.set_level(logging.CRITICAL, refusals)
    client = Client(raise_request_exception=False)
    client.force_login(administrator)

    def status(path: str) -> tuple[int, str]:
        with transaction.atomic():  # an error must not affect the next request
            answer: Any = client.get(path)
            text = b"".join(answer.streaming_content) if answer.streaming else answer.content
        return answer.status_code, text.decode(errors="replace")

    failed = []
    for page in filter(is_asked, pages(Things(administrator))):
        code, html = status(page.path)
        assert code < 500, page
        for query in hostile_queries(
            page, names_on(html), is_djangos_list='id="changelist"' in html
        ):
            code, _ = status(f"{page.path}?{query}")
            if code >= 500:
                failed.append(f"{page.path}?{query}")
    assert failed == []
