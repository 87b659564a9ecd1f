"""The words of `/api/v1/`: what calls take and what they answer.

What is taken knows no fields but these. Of amounts and texts only the type is checked here: whether
they are money, and long enough, the ledger says, with its own codes.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import AfterValidator, ConfigDict, Field, StrictBool, StrictInt, StringConstraints

from billing.models import Channel, TransactionType

MAX_ID = 2**63 - 1
AMOUNT_PATTERN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$"


def _storable(text: str) -> str:
    """PostgreSQL's texts hold no null characters, and nobody's hold half a character."""
    if "\0" in text:
        raise ValueError("It contains a null character.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("It contains half a character.") from None
    return text


def _with_zone(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("Say the time zone, as in 2026-11-22T18:00:00Z.")
    return moment


Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_storable)]
AmountIn = Annotated[
    str,
    StringConstraints(strict=True, max_length=40),
    Field(
        description="A text, with at most four decimals.",
        examples=["-25.50"],
        json_schema_extra={"pattern": AMOUNT_PATTERN},
    ),
]
AmountOut = Annotated[
    str,
    Field(
        description="With four decimals.", examples=["-25.5000"], pattern=r"^-?[0-9]+\.[0-9]{4}$"
    ),
]
Id = Annotated[StrictInt, Field(ge=1, le=MAX_ID)]
PathId = Annotated[int, Field(ge=1, le=MAX_ID)]
Number = Annotated[StrictInt, Field(ge=0, le=MAX_ID)]
Moment = Annotated[
    datetime,
    AfterValidator(_with_zone),
    Field(description="RFC 3339, with its time zone.", examples=["2026-11-22T18:00:00Z"]),
]
MomentOut = Annotated[
    str,
    Field(
        description="RFC 3339, UTC.",
        examples=["2026-11-22T18:00:00.000000Z"],
        json_schema_extra={"format": "date-time"},
    ),
]
IdempotencyKey = Annotated[
    Text,
    Field(
        min_length=1,
        max_length=100,
        description="Names this operation, for this user. The same key with the same content "
        "answers the first transaction and changes nothing.",
    ),
]
Metadata = Annotated[
    dict[str, Any], Field(description="Your own data; kept and given back as it is.")
]
Device = Annotated[Text, Field(max_length=100)]


class Taken(Schema):
    """A body: with these fields, and no others."""

    model_config = ConfigDict(extra="forbid")


class Parameters(Schema):
    """What may stand in an address after its question mark."""


class ProblemOut(Schema):
    """RFC 9457 problem details, served as `application/problem+json`; figures besides."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = Field(description="A sentence for people.")
    code: str = Field(description="Stable, for programs.")
    request_id: str | None = None


class BalanceOut(Schema):
    """What a user has, and the number of the user's last transaction by then."""

    real: AmountOut
    bonus: AmountOut
    number: int


class TransactionOut(Schema):
    """One operation on a user's two balances. It never changes."""

    id: int
    user_id: int
    number: int = Field(description="1, 2, 3, … for each user, without gaps.")
    type: TransactionType
    subtype: str
    description: str
    device: str
    amount: AmountOut
    old_balance: AmountOut
    new_balance: AmountOut
    bonus_amount: AmountOut
    old_bonus: AmountOut
    new_bonus: AmountOut
    created_at: MomentOut
    actor_id: int | None = Field(description="The operator who caused it; null: the system.")
    channel: Channel
    idempotency_key: str | None
    reverses: int | None = Field(description="The number of the transaction that it takes back.")
    metadata: dict[str, Any]
    digest: str = Field(description="SHA-256, hexadecimal; see docs/ledger.md.")


# --- Users --------------------------------------------------------------------------------------

LegalType = Literal["individual", "legal_entity", "sole_trader"]


class UserOut(Schema):
    id: int
    email: str
    first_name: str
    middle_name: str
    last_name: str
    phone: str
    legal_type: LegalType
    legal_name: str
    tin: str
    country: str
    region: str
    city: str
    street_address: str
    postal_code: str
    time_zone: str
    comment: str
    is_active: bool
    created_at: MomentOut
    balance: BalanceOut | None = Field(
        description="null without the permission billing.view_balance."
    )


class UserFields(Taken):
    """Fields of a user. What is not given stays as it is, or is empty for a new one."""

    email: Annotated[Text, Field(max_length=254)] | None = None
    first_name: Annotated[Text, Field(max_length=100)] | None = None
    middle_name: Annotated[Text, Field(max_length=100)] | None = None
    last_name: Annotated[Text, Field(max_length=100)] | None = None
    phone: Annotated[Text, Field(max_length=30)] | None = None
    legal_type: LegalType | None = None
    legal_name: Annotated[Text, Field(max_length=200)] | None = None
    tin: Annotated[Text, Field(max_length=30)] | None = None
    country: Annotated[Text, Field(max_length=100)] | None = None
    region: Annotated[Text, Field(max_length=100)] | None = None
    city: Annotated[Text, Field(max_length=100)] | None = None
    street_address: Annotated[Text, Field(max_length=200)] | None = None
    postal_code: Annotated[Text, Field(max_length=20)] | None = None
    time_zone: Annotated[Text, Field(max_length=64)] | None = None
    comment: Annotated[Text, Field(max_length=10_000)] | None = None
    is_active: StrictBool | None = None


class UserIn(UserFields):
    email: Annotated[Text, Field(max_length=254)]


class UserPage(Schema):
    users: list[UserOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last.")


# --- Balance changes ----------------------------------------------------------------------------


class BalanceChangeIn(Taken):
    """Amounts are added to the balances as they are signed; one of them may be left out."""

    description: Text = Field(description="5 to 200 characters.", examples=["Bank transfer 4711"])
    amount: AmountIn = "0"
    bonus_amount: AmountIn = "0"
    metadata: Metadata = Field(default_factory=dict)
    expected_number: Number | None = Field(
        default=None,
        description="The number of the user's last transaction as you know it: the change is "
        "refused if another came in since.",
    )


class BatchEntryIn(BalanceChangeIn):
    user_id: Id
    idempotency_key: IdempotencyKey | None = None


class BatchIn(Taken):
    entries: list[BatchEntryIn] = Field(min_length=1, max_length=1000)
    skip_refused: StrictBool = Field(
        default=False,
        description="Post what can be posted. Otherwise all entries are posted, or none.",
    )


class BatchResultOut(Schema):
    outcome: Literal["posted", "replayed", "refused"]
    transaction: TransactionOut | None
    problem: ProblemOut | None


class BatchOut(Schema):
    results: list[BatchResultOut] = Field(description="In the order of the entries.")
