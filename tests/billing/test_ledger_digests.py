"""Each transaction carries a digest over itself and the one before it (G9)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from billing import ledger
from billing.models import Balance, Transaction
from tests.billing.digests import canonical_form, digest
from tests.billing.histories import BY_PANEL, execute, user_with_history
from tests.factories import UserFactory
from users.models import User

pytestmark = pytest.mark.django_db

PAGE = Path(__file__).parents[2] / "docs" / "ledger.md"


def assert_chain_is_right(user: User) -> None:
    previous = b""
    for row in Transaction.objects.filter(user=user).order_by("number"):
        assert bytes(row.digest) == digest(row, previous)
        previous = bytes(row.digest)
    assert bytes(Balance.objects.get(user=user).last_digest) == previous


def test_digests_are_what_the_page_says() -> None:
    assert_chain_is_right(user_with_history())


@pytest.mark.parametrize(
    "fields",
    [
        {"description": "Quotes \" and \\ and / and ' here"},
        {"metadata": {"text": "Tab\tline\nreturn\rbell\x07 delete\x7f"}},
        {"description": "Ünïcödé, 漢字, 👍"},
        {"device": '","', "idempotency_key": '["'},
        {"amount": "999999999999999.9999", "bonus_amount": "0.0001"},
        {"metadata": {"b": 1, "a": 2, "aa": 0, "ä": [1, -2.5, 1e30, 1e-7], "": None}},
        {"metadata": {"nested": {"deep": [{}, [], [[True, False]]], "text": 'a"\\\n\x01é'}}},
    ],
)
def test_digests_cover_any_content(fields: dict[str, Any]) -> None:
    user = UserFactory()
    content = {"amount": 1, "description": "Any content"} | fields
    ledger.change_balance(user, **content, **BY_PANEL)
    ledger.change_balance(user, amount=-1, description="And the next", **BY_PANEL)
    assert_chain_is_right(user)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Apia", "Pacific/Fakaofo", "America/Lima"])
def test_a_digest_does_not_depend_on_the_time_zone_of_a_session(zone: str) -> None:
    user = UserFactory()
    # A day that Samoa left out.
    entry = {"user_id": user.pk, "type": "payment", "subtype": "partner", "amount": "1"}
    entry |= {"description": "A late payment", "payment_date": "2011-12-30"}
    execute("SET LOCAL timezone = %s", [zone])
    execute("SELECT billing_post(%s, NULL, 'import')", [json.dumps([entry])])
    execute("SET LOCAL timezone = 'UTC'")
    assert_chain_is_right(user)


def test_a_digest_depends_on_everything_before_it() -> None:
    """The same transaction after another history has another digest."""
    rows = []
    for first in (1, 2):
        user = UserFactory()
        ledger.change_balance(user, amount=first, description="The first", **BY_PANEL)
        ledger.change_balance(user, amount=3 - first, description="The second", **BY_PANEL)
        rows.append(Transaction.objects.filter(user=user).order_by("number"))
    (one, two), (other, _) = rows
    assert digest(two, bytes(one.digest)) != digest(two, bytes(other.digest))


def test_the_worked_example_of_the_page_is_right() -> None:
    """Checks the two canonical forms and digests that the page shows, and the link between them."""
    page = PAGE.read_text()
    blocks = re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
    forms = [block for block in blocks if block.startswith("[")]
    digests = re.findall(r"^[0-9a-f]{64}$", page, re.MULTILINE)
    assert len(forms) == len(digests) == 2

    from hashlib import sha256

    for form, expected in zip(forms, digests, strict=True):
        assert sha256(form.encode()).hexdigest() == expected
    assert f'["{digests[0]}"' in forms[1]  # the second continues the first

    for form, previous in zip(forms, ("", digests[0]), strict=True):
        assert canonical_form(row_of(form), bytes.fromhex(previous)) == form


def row_of(form: str) -> Transaction:
    """Returns the transaction that a canonical form describes."""
    import json
    from datetime import datetime
    from decimal import Decimal

    from tests.billing.digests import AMOUNTS

    names = [
        *("id", "user_id", "number", "type", "subtype", "description", "device"),
        *AMOUNTS,
        *("created_at", "actor_id", "channel", "idempotency_key", "reverses", "metadata"),
    ]
    values = dict(zip(names, json.loads(form)[1:], strict=True))
    for name in AMOUNTS:
        values[name] = Decimal(values[name])
    for name in ("id", "user_id", "number", "actor_id", "reverses"):
        values[name] = None if values[name] is None else int(values[name])
    values["created_at"] = datetime.fromisoformat(values["created_at"])
    values["metadata"] = json.loads(values["metadata"])
    return Transaction(**values)
