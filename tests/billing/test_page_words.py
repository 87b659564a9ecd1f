"""Pages use one word for one thing, and their titles begin with the subject of the page."""

import re
from html import unescape

import pytest
from django.test import Client

from tests.every_page import PanelPage, Things, pages
from users.models import User

pytestmark = pytest.mark.django_db


@pytest.fixture
def things(administrator: User) -> Things:
    return Things(administrator)


def title_of(html: str) -> str:
    found = re.search(r"<title>(.*?)</title>", html, re.DOTALL)
    assert found
    return unescape(" ".join(found[1].split()))


def shown(panel: Client, things: Things) -> list[tuple[PanelPage, str]]:
    """Returns every page that answers with HTML, and this HTML."""
    found = []
    for page in pages(things):
        if page.name in ("logout", "search"):  # "search" is only a part of a page
            continue
        answer = panel.get(page.path)
        if answer.status_code == 200 and answer["Content-Type"].startswith("text/html"):
            found.append((page, answer.text))
    return found


def test_every_page_says_what_it_is_and_whose_first(panel: Client, things: Things) -> None:
    titles = {}
    for page, html in shown(panel, things):
        title = title_of(html)
        titles[page.path] = title
        assert title.endswith(" · Billing"), page
        assert not re.match("(Select|Change|View|Are you sure|Delete)\\b", title), (page, title)
        if page.path.startswith(f"/admin/users/user/{things.user.pk}/"):
            assert title.startswith("ada@example.net · "), (page, title)
            assert "Ada Byron" in html, page
    twice = {title for title in titles.values() if [*titles.values()].count(title) > 1}
    assert twice == set()
    its = f"/admin/users/user/{things.user.pk}"
    assert titles[f"{its}/transactions/"] == "ada@example.net · Transactions · Billing"
    assert titles[f"{its}/change/"] == "ada@example.net · Profile · Billing"
    assert titles[f"{its}/history/"] == "ada@example.net · History · Billing"
    assert titles["/admin/users/user/"] == "Users · Billing"
    assert titles[f"/admin/billing/plan/{things.ids['billing_plan']}/change/"] == (
        "Fleet · Plan · Billing"
    )
    number = "ada@example.net · Transaction 1 · Billing"
    assert titles[f"/admin/billing/transaction/{things.ids['billing_transaction']}/change/"] == (
        number
    )


def words_of(html: str) -> str:
    """Returns the text of a page without markup, scripts and styles."""
    html = re.sub(r"<(script|style|template)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub("<[^>]+>", " ", html)).split())


def test_one_word_is_used_for_one_thing(panel: Client, things: Things) -> None:
    for page, html in shown(panel, things):
        words = words_of(html)
        assert not re.search(r"\b([Cc]ustomers?|People)\b", words), (page, words)
        assert "Bonus refill" not in words, page
        if page.name.startswith(("users_operator", "auth_")):
            assert "the user does not see it" not in words, page
        if "cancel" not in page.name:
            # A link that only leaves a form is not called Cancel: that word ends a subscription.
            assert not re.search(r'(?<!subscription\b)">\s*Cancel\s*</(a|button)>', html) or (
                page.name == "users_user_subscriptions"
            ), page


def test_what_new_users_get_has_one_name(panel: Client, things: Things) -> None:
    html = panel.get("/admin/billing/userdefaults/", follow=True).text
    assert title_of(html) == "Defaults for new users · Billing"
    words = words_of(html)
    assert "Defaults for new users" in words
    assert not re.search("(?<!Defaults for )[Nn]ew users", words)
