"""The messages of webhooks, as the description of `/api/v1/` has them under `webhooks`."""

from typing import Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from billing.api.schemas import (
    AmountOut,
    GrantOut,
    MomentOut,
    ResponseModel,
    SubscriptionStateOut,
    TransactionOut,
)
from billing.models import EventType

REF: Final = "#/components/schemas/{model}"


class _Message(ResponseModel):
    id: str = Field(description="The same at every attempt.", examples=["evt_71"])
    created_at: MomentOut


class PostedData(ResponseModel):
    transaction: TransactionOut


class TransactionPostedOut(_Message):
    """A transaction was posted, through any channel."""

    type: Literal["transaction.posted"]
    user_id: int
    data: PostedData


class LowBalanceData(ResponseModel):
    transaction: TransactionOut = Field(
        description="The transaction that took the balance below the threshold."
    )
    balance: AmountOut
    threshold: AmountOut


class LowBalanceOut(_Message):
    """The real balance fell below its threshold."""

    type: Literal["balance.low"]
    user_id: int
    data: LowBalanceData


class ExpiringData(ResponseModel):
    grant: GrantOut


class BonusExpiringOut(_Message):
    """A gift of which something is left expires soon."""

    type: Literal["bonus.expiring"]
    user_id: int
    data: ExpiringData


class ExpiredData(ResponseModel):
    transaction: TransactionOut = Field(description="The transaction that took what had expired.")
    expired: AmountOut
    bonus: AmountOut = Field(description="The bonus balance afterwards.")


class BonusExpiredOut(_Message):
    """What was left of a gift has expired."""

    type: Literal["bonus.expired"]
    user_id: int
    data: ExpiredData


class SubscriptionData(ResponseModel):
    subscription: SubscriptionStateOut


class SubscriptionSuspendedOut(_Message):
    """A subscription could not be paid; also sent if that happens at its start."""

    type: Literal["subscription.suspended"]
    user_id: int
    data: SubscriptionData


class SubscriptionResumedOut(_Message):
    """A suspended subscription is active again."""

    type: Literal["subscription.resumed"]
    user_id: int
    data: SubscriptionData


class TestData(ResponseModel):
    text: str


class TestMessageOut(_Message):
    """What the panel's button “Send test event” sends. Nothing happened."""

    type: Literal["webhook.test"]
    user_id: None
    data: TestData


MESSAGES: Final[dict[str, type[_Message]]] = {
    EventType.TRANSACTION_POSTED: TransactionPostedOut,
    EventType.BALANCE_LOW: LowBalanceOut,
    EventType.BONUS_EXPIRING: BonusExpiringOut,
    EventType.BONUS_EXPIRED: BonusExpiredOut,
    EventType.SUBSCRIPTION_SUSPENDED: SubscriptionSuspendedOut,
    EventType.SUBSCRIPTION_RESUMED: SubscriptionResumedOut,
    "webhook.test": TestMessageOut,
}

HEADERS: Final = (
    ("webhook-id", "The message's ID. It is the same at every attempt.", {"type": "string"}),
    ("webhook-timestamp", "The time of this attempt in seconds since 1970.", {"type": "string"}),
    (
        "webhook-signature",
        "“v1,” and the HMAC-SHA-256, in base64, of ID, timestamp and body joined by dots. "
        "There may be several, separated by spaces. See docs/webhooks.md.",
        {"type": "string"},
    ),
)


def described() -> dict[str, Any]:
    return {
        name: {
            "post": {
                "operationId": f"receive_{name.replace('.', '_')}",
                "summary": (model.__doc__ or "").strip(),
                "tags": ["Webhooks"],
                "security": [],
                "parameters": [
                    {
                        "in": "header",
                        "name": header,
                        "required": True,
                        "description": description,
                        "schema": schema,
                    }
                    for header, description, schema in HEADERS
                ],
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {"schema": {"$ref": REF.format(model=model.__name__)}}
                    },
                },
                "responses": {
                    "2XX": {"description": "Accepted: it is not sent again."},
                    "default": {"description": "Refused: it is sent again later."},
                },
            }
        }
        for name, model in MESSAGES.items()
    }


def schemas() -> dict[str, Any]:
    models: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (model, "serialization") for model in MESSAGES.values()
    ]
    _, schema = models_json_schema(models, ref_template=REF)
    found: dict[str, Any] = schema["$defs"]
    return found
