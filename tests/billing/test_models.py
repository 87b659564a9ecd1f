"""The names of rows, and the validator of names."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from billing.models import (
    ActiveDay,
    ApiKey,
    Balance,
    Batch,
    ChargingBatch,
    ChargingFailure,
    ChargingRun,
    Export,
    ExportPart,
    GroupDefault,
    LowBalanceThreshold,
    Plan,
    Reason,
    Service,
    ServicePrice,
    Subscription,
    Transaction,
    UserDefaults,
    Voucher,
    VoucherRedemption,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.models.answers import KeptAnswer
from billing.models.credentials import ApiAllowance, ApiSession
from billing.models.moments import Activation, PlanTerms
from billing.models.plans import validate_readable
from billing.models.runs import Heartbeat
from users.models import User

MOMENT = datetime(2026, 5, 1, 3, 7, tzinfo=UTC)
ADA = User(pk=7, email="ada@example.com", first_name="Ada", last_name="Byron")
FLEET = Plan(name="Fleet", price=Decimal(10))


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (ActiveDay(device="8617", day=date(2026, 5, 1)), "8617 on 2026-05-01"),
        (ActiveDay(day=date(2026, 5, 1)), "Account on 2026-05-01"),
        (Activation(user_id=7, is_active=True), "User 7 activated"),
        (Activation(user_id=7, is_active=False), "User 7 deactivated"),
        (ApiAllowance(bearer="key 5"), "key 5"),
        (ApiKey(name="Shop"), "Shop"),
        (ApiSession(operator=ADA), f"Session of {ADA}"),
        (Balance(pk=7), "Balance of user 7"),
        (ChargingBatch(first_user_id=1, last_user_id=500), "Users 1 to 500"),
        (Batch(pk=12, title="Apologies"), "Batch 12: Apologies"),
        (ChargingFailure(user=ADA, problem="It was refused."), f"{ADA}: It was refused."),
        (Export(pk=4, title="All users"), "Export 4: All users"),
        (ExportPart(export_id=4, number=2), "Part 2 of export 4"),
        (ChargingRun(at=MOMENT), "Charging run of 2026-05-01 03:07 UTC"),
        (FLEET, "Fleet"),
        (GroupDefault(group="Viewer", permission="users.view_user"), "Viewer: users.view_user"),
        (Heartbeat(at=MOMENT), "2026-05-01 03:07:00+00:00"),
        (KeptAnswer(call="POST /users", key="k1"), "POST /users, k1"),
        (LowBalanceThreshold(user_id=7), "Threshold of user 7"),
        (LowBalanceThreshold(), "Default threshold"),
        (PlanTerms(plan_id=3, price=Decimal("9.9")), "Plan 3 at 9.9"),
        (Service(name="SMS"), "SMS"),
        (ServicePrice(service=Service(name="SMS")), "SMS"),
        (Reason(code="cash", label="Paid in cash", template="Paid in cash"), "Paid in cash"),
        (Subscription(plan=FLEET), "Fleet"),
        (Subscription(plan=FLEET, device="8617"), "Fleet, device 8617"),
        (Transaction(user_id=7, number=2), "Transaction 2 of user 7"),
        (UserDefaults(), "Defaults for new users"),
        (Voucher(title="Autumn"), "Autumn"),
        (VoucherRedemption(voucher_id=3, user_id=7), "Voucher 3 redeemed by user 7"),
        (WebhookAttempt(at=MOMENT), "Attempt at 2026-05-01 03:07:00+00:00"),
        (WebhookDelivery(pk=4), "Delivery 4"),
        (WebhookEndpoint(name="CRM"), "CRM"),
        (WebhookEvent(type="balance.low", user_id=7), "Balance below its threshold, user 7"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_row_is_called_what_people_would_call_it(row: Any, name: str) -> None:
    assert str(row) == name


def test_a_code_is_shown_in_groups_or_by_its_end() -> None:
    voucher = Voucher(code="7QXKM3WPZT9B")
    assert (voucher.shown_code, voucher.hidden_code) == ("7QXK-M3WP-ZT9B", "…ZT9B")


def test_nothing_unseen_is_in_a_name_that_descriptions_repeat() -> None:
    validate_readable("Fleet, 2026")
    with pytest.raises(ValidationError):
        validate_readable("Fleet \u3164")
