"""The tables of Django's lists: what the cells say, and how large the page is."""

import re
from typing import Any

import pytest
from django.contrib import admin
from django.test import Client

from tests.factories import AdministratorFactory, OperatorFactory, UserFactory, reason
from tests.operators import client_of, operator_with
from users.models import User

pytestmark = pytest.mark.django_db

USERS = "/admin/users/user/"


def row(client: Client, address: str, text: str) -> str:
    """Returns the HTML of the one row of a list that contains `text`."""
    rows = re.findall(r"<tr>.*?</tr>", client.get(address).text, re.S)
    [found] = [each for each in rows if text in each]
    return found


@pytest.fixture
def viewer() -> Client:
    return client_of(operator_with(group="Viewer"))


def test_the_first_link_heads_the_row_and_others_are_cells(viewer: Client) -> None:
    user = UserFactory(first_name="Ada", last_name="L<b>", legal_name="")
    cells = row(viewer, USERS, user.email)
    page = f'href="{USERS}{user.pk}/change/"'
    assert f'<th class="field-id"><a {page}>{user.pk}</a></th>' in cells
    assert (
        f'<td class="field-name_and_email linked"><a {page}><strong>Ada L&lt;b&gt;</strong>'
        f"<span>{user.email}</span></a></td>" in cells
    )
    assert '<td class="field-legal_name">-</td>' in cells
    assert '<td class="field-last_transaction">–</td>' in cells
    assert '<td class="field-real_balance right"><span class="money">0.00</span></td>' in cells
    assert '<span class="panel-label success">Active</span>' in cells
    assert "_selected_action" not in cells, "a viewer can run no action"


def test_who_may_run_actions_can_select_rows() -> None:
    user = UserFactory()
    cells = row(client_of(AdministratorFactory()), USERS, user.email)
    assert f'name="_selected_action" value="{user.pk}"' in cells


def test_a_link_keeps_the_filters_to_come_back_to(viewer: Client) -> None:
    user = UserFactory()
    UserFactory()
    cells = row(viewer, f"{USERS}?status=active&o=1", user.email)
    kept = "?_changelist_filters=status%3Dactive%26o%3D1"
    assert cells.count(f'href="{USERS}{user.pk}/change/{kept}"') == 2


def test_a_list_to_choose_from_says_what_is_chosen(viewer: Client) -> None:
    user = UserFactory()
    cells = row(viewer, f"{USERS}?_popup=1", user.email)
    assert f'data-popup-opener="{user.pk}"' in cells


def test_fields_of_a_list_can_be_changed_there_and_say_what_is_wrong() -> None:
    client = client_of(OperatorFactory(is_superuser=True))
    address = "/admin/billing/reason/"
    reasons = [reason(code, position=place) for place, code in enumerate(("cash", "goodwill"))]
    cells = row(client, address, f">{reasons[0].label}<")
    assert '<td class="field-position"><input type="number" name="form-0-position"' in cells
    sent: dict[str, Any] = {
        "form-TOTAL_FORMS": len(reasons),
        "form-INITIAL_FORMS": len(reasons),
        "_save": "Save",
    }
    for place, each in enumerate(reasons):
        sent |= {f"form-{place}-id": each.pk, f"form-{place}-position": place}
    answer = client.post(address, sent | {"form-0-position": "first"})
    assert '<td class="field-position group errors"><input' in answer.text
    assert "Enter a whole number." in answer.text
    assert f'name="form-0-id" value="{reasons[0].pk}"' in answer.text


def test_the_panels_lists_use_no_feature_that_their_table_lacks() -> None:
    """Unfold's table has more features than users/templatetags/lists.py."""

    def uses(model_admin: Any) -> Any:
        displayed = [getattr(model_admin, str(name), None) for name in model_admin.list_display]
        return (
            getattr(model_admin, "list_sections", None)
            or getattr(model_admin, "ordering_field", None)
            or getattr(model_admin, "actions_row", None)
            or any(getattr(each, "dropdown", None) for each in displayed)
            or any(not isinstance(name, str) for name in model_admin.list_display)
        )

    assert not [str(each) for each in admin.site._registry.values() if uses(each)]


# --- Size ---------------------------------------------------------------------------------------


def test_the_list_of_users_is_small() -> None:
    """A page of it, uncompressed; with Unfold's table it was 275 kB."""
    for number in range(100):
        UserFactory(
            email=f"wesley.baxter{number}@harbour-vending.example",
            first_name="Wesley",
            last_name="Baxter",
            legal_name="Harbour Vending LLC",
        )
    page = client_of(OperatorFactory(is_superuser=True)).get(USERS)
    assert page.text.count("_selected_action") == 50
    assert len(page.content) < 80_000
    assert User.objects.customers().count() == 100
