"""The schemas of `/api/v1/`: requests and answers.

Requests accept only these fields. For amounts and texts only the type is checked here; the ledger
checks the rest and refuses with its own codes.
"""

import csv
import io
import re
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from ninja import Schema
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    StringConstraints,
    model_validator,
)

from billing.descriptions import DESCRIPTION_MAX_LENGTH, LENGTHS
from billing.models import Batch, Channel, Reason, Subscription, TransactionType
from billing.plans.pricing import Cycle
from users.ids import MAX_ID
from users.texts import storage_problem

AMOUNT_PATTERN = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)$"
# Pydantic would also accept seconds since 1970, days as times, and times as days.
DAY_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
MOMENT_PATTERN = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}.*")


def _storable(text: str) -> str:
    if problem := storage_problem(text):
        raise ValueError(f"It {problem}.")
    return text


def _like_a_day(text: object) -> object:
    if not isinstance(text, str) or not DAY_PATTERN.fullmatch(text):
        raise ValueError("Write a day as in 2026-11-22.")
    return text


def _like_a_moment(text: object) -> object:
    if not isinstance(text, str) or not MOMENT_PATTERN.fullmatch(text):
        raise ValueError("Write a time as in 2026-11-22T18:00:00Z.")
    return text


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("Write the time zone too, as in 2026-11-22T18:00:00Z.")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("In UTC, this is not within the years 1 to 9999.") from None


def _day_or_moment(text: object) -> date | datetime:
    if isinstance(text, str) and DAY_PATTERN.fullmatch(text):
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ValueError("There is no such day.") from None
    _like_a_moment(text)
    try:
        return _in_utc(datetime.fromisoformat(str(text)))
    except ValueError as problem:
        raise ValueError(str(problem) or "There is no such time.") from None


Text = Annotated[str, StringConstraints(strict=True), AfterValidator(_storable)]
AmountIn = Annotated[
    str,
    StringConstraints(strict=True, max_length=40),
    Field(
        description="A string with at most four decimals.",
        examples=["25.50"],
        json_schema_extra={"pattern": AMOUNT_PATTERN},
    ),
]
AmountOut = Annotated[
    str,
    Field(description="With four decimals.", examples=["25.5000"], pattern=r"^-?[0-9]+\.[0-9]{4}$"),
]
Id = Annotated[StrictInt, Field(ge=1, le=MAX_ID)]
PathId = Annotated[int, Field(ge=1, le=MAX_ID)]
Number = Annotated[StrictInt, Field(ge=0, le=MAX_ID)]
Moment = Annotated[
    datetime,
    BeforeValidator(_like_a_moment),
    AfterValidator(_in_utc),
    Field(description="RFC 3339, with a time zone.", examples=["2026-11-22T18:00:00Z"]),
]
Day = Annotated[
    date,
    BeforeValidator(_like_a_day),
    Field(description="A UTC day.", examples=["2026-11-22"]),
]
ExpiryIn = Annotated[
    date | datetime,
    BeforeValidator(_day_or_moment),
    Field(examples=["2026-12-31", "2026-12-31T18:00:00Z"]),
]
DayOut = Annotated[
    str,
    Field(
        description="A UTC day.",
        examples=["2026-11-22"],
        json_schema_extra={"format": "date"},
    ),
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
        description="Identifies this operation among those of the user. The same key with the same "
        "content returns the first transaction and changes nothing.",
    ),
]
Metadata = Annotated[
    dict[str, Any], Field(description="Your own data, stored and returned unchanged.")
]
Device = Annotated[Text, Field(max_length=100)]
QuantityIn = Annotated[
    str,
    StringConstraints(strict=True, max_length=40),
    Field(
        description="A string. More than zero, with at most six decimals.",
        examples=["10"],
        json_schema_extra={"pattern": AMOUNT_PATTERN},
    ),
]
ExpectedNumber = Annotated[
    Number | None,
    Field(
        description="The number of the user's last transaction as you know it. The call is "
        "refused if a newer one exists.",
    ),
]
Limit = Annotated[int, Field(ge=1, le=200, description="The maximum number of rows.")]
CursorIn = Annotated[
    str | None, Field(max_length=200, description="The `next_cursor` of an earlier response.")
]


class RequestModel(BaseModel):
    """A request body. Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


def example(**fields: Any) -> ConfigDict:
    """Returns a model configuration with a complete example body, for the documentation page."""
    return ConfigDict(json_schema_extra={"examples": [fields]})


class Parameters(Schema):
    """Query parameters. Unknown ones are refused."""


class ResponseModel(BaseModel):
    """An answer. Calls build dictionaries: Ninja's own schemas would read each field of each row
    from an object by name, which is slow.
    """


class ProblemOut(ResponseModel):
    """RFC 9457 problem details, served as `application/problem+json`, with figures of the case."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str = Field(description="A sentence for people.")
    code: str = Field(description="Stable, for programs.")
    request_id: str | None = None


class BalanceOut(ResponseModel):
    """A user's balances, and the number of the user's last transaction at that time."""

    real: AmountOut
    bonus: AmountOut
    number: int


class GrantUseOut(ResponseModel):
    number: int = Field(description="The number of the grant.")
    amount: AmountOut


class TransactionOut(ResponseModel):
    """One operation on a user's two balances. Transactions never change."""

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
    reverses: int | None = Field(description="The number of the transaction that it reverses.")
    metadata: dict[str, Any]
    digest: str = Field(description="SHA-256, hexadecimal; see docs/ledger.md.")
    payment_date: DayOut | None = Field(
        description="The day on which the payment was made, if it was posted later."
    )
    bonus_expires_at: MomentOut | None = Field(
        description="The moment from which the added bonus cannot be spent; null: never."
    )
    reason: str | None = Field(description="The code of the reason of a balance change.")
    batch: int | None = Field(description="The ID of the batch with which it was posted.")


# --- Users --------------------------------------------------------------------------------------

LegalType = Literal["individual", "legal_entity", "sole_trader"]


class UserOut(ResponseModel):
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
    iec: str = Field(description="Interbranch enterprise code.")
    state_reg_num: str = Field(description="State registration number.")
    okpo_code: str = Field(
        description="The code in the classifier of enterprises and organizations."
    )
    registered_country: str
    registered_region: str
    registered_city: str
    registered_street_address: str
    registered_postal_code: str
    time_zone: str
    comment: str
    is_active: bool
    duplicate_of: int | None = Field(
        description="The ID of the same person's account that was kept. A duplicate takes no money."
    )
    forgotten_at: MomentOut | None = Field(
        description="When the personal data was erased. Name and address are placeholders then."
    )
    created_at: MomentOut
    balance: BalanceOut | None = Field(
        description="null without the permission billing.view_balance."
    )


# A field that may be left out but not null: `exclude_unset` tells it from an empty one.
NOT_GIVEN: Any = Field(default=None)


class UserFields(RequestModel):
    """Fields of a user. A field that is left out stays as it is, or is empty for a new user."""

    model_config = example(phone="+44 20 7946 0018", comment="Called on Monday.")

    email: Annotated[Text, Field(max_length=254)] = NOT_GIVEN
    first_name: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    middle_name: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    last_name: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    phone: Annotated[Text, Field(max_length=30)] = NOT_GIVEN
    legal_type: LegalType = NOT_GIVEN
    legal_name: Annotated[Text, Field(max_length=255)] = NOT_GIVEN
    tin: Annotated[Text, Field(max_length=255)] = NOT_GIVEN
    country: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    region: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    city: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    street_address: Annotated[Text, Field(max_length=200)] = NOT_GIVEN
    postal_code: Annotated[Text, Field(max_length=20)] = NOT_GIVEN
    iec: Annotated[Text, Field(max_length=255)] = NOT_GIVEN
    state_reg_num: Annotated[Text, Field(max_length=15)] = NOT_GIVEN
    okpo_code: Annotated[Text, Field(max_length=10)] = NOT_GIVEN
    registered_country: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    registered_region: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    registered_city: Annotated[Text, Field(max_length=100)] = NOT_GIVEN
    registered_street_address: Annotated[Text, Field(max_length=200)] = NOT_GIVEN
    registered_postal_code: Annotated[Text, Field(max_length=20)] = NOT_GIVEN
    time_zone: Annotated[Text, Field(max_length=64)] = NOT_GIVEN
    comment: Annotated[Text, Field(max_length=10_000)] = NOT_GIVEN
    is_active: StrictBool = NOT_GIVEN


class UserIn(UserFields):
    model_config = example(
        email="ada@example.net", first_name="Ada", last_name="Lovelace", phone="+44 20 7946 0018"
    )

    email: Annotated[Text, Field(max_length=254)]


class UserPage(ResponseModel):
    users: list[UserOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


# --- Balance changes ----------------------------------------------------------------------------


class BalanceChangeIn(RequestModel):
    """Signed amounts to add to the balances. One of the two may be left out."""

    model_config = example(
        description="Bank transfer 4711", amount="25.00", bonus_amount="5.00", metadata={}
    )

    description: Text = Field(
        default="",
        description=f"{LENGTHS}. Without it: what the reason says.",
        examples=["Bank transfer 4711"],
    )
    amount: AmountIn = "0"
    bonus_amount: AmountIn = "0"
    metadata: Metadata = Field(default_factory=dict)
    payment_date: Day | None = Field(
        default=None,
        description="The day on which the payment was made, if that is not today. Not in the "
        "future.",
    )
    bonus_expires_at: ExpiryIn | None = Field(
        default=None,
        description="When the added bonus expires: a time, or the last day on which it can be "
        "spent, in the installation's time zone. Without it: as the reason says, or never.",
    )
    reason: Annotated[Text, Field(max_length=32)] | None = Field(
        default=None, description="The code of a reason: `GET /reasons`.", examples=["goodwill"]
    )
    expected_number: Number | None = Field(
        default=None,
        description="The number of the user's last transaction as you know it. The change is "
        "refused if a newer one exists.",
    )


class BatchEntryIn(BalanceChangeIn):
    model_config = example(
        user_id=7, description="Bank transfer 4711", amount="25.00", idempotency_key="transfer-4711"
    )

    user_id: Id
    idempotency_key: IdempotencyKey | None = None


MAX_ENTRIES = 1000
MAX_FILE = 400_000  # characters
WHOLE = ("user_id", "expected_number")
WHOLE_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def _not_too_many(entries: Any) -> Any:
    """Refuses too many entries before each one is validated."""
    if isinstance(entries, list) and len(entries) > MAX_ENTRIES:
        raise ValueError(f"It must have at most {MAX_ENTRIES} entries.")
    return entries


class BatchIn(RequestModel):
    model_config = example(
        entries=[
            {
                "user_id": 7,
                "description": "Bank transfer 4711",
                "amount": "25.00",
                "idempotency_key": "transfer-4711",
            },
            {
                "user_id": 8,
                "description": "Bank transfer 4712",
                "amount": "10.00",
                "idempotency_key": "transfer-4712",
            },
        ],
        skip_refused=False,
    )

    title: Annotated[Text, Field(max_length=200)] = Field(
        default="", description="What the list of batches calls it."
    )
    entries: Annotated[list[BatchEntryIn], BeforeValidator(_not_too_many)] = Field(
        min_length=1, max_length=MAX_ENTRIES
    )
    skip_refused: StrictBool = Field(
        default=False,
        description="Post all entries that are not refused. Otherwise all entries are posted, or "
        "none.",
    )


class BatchResultOut(ResponseModel):
    outcome: Literal["posted", "replayed", "refused"]
    transaction: TransactionOut | None
    problem: ProblemOut | None


class BatchOut(ResponseModel):
    results: list[BatchResultOut] = Field(description="In the order of the entries.")
    batch: int | None = Field(description="The ID of the batch; null: nothing was posted.")


class FileIn(RequestModel):
    """A CSV file. Its first line names the columns, which are the fields of an entry."""

    model_config = example(
        name="march.csv", content="user_id,amount,description\n7,25.00,Bank transfer 4711\n"
    )

    name: Annotated[Text, Field(min_length=1, max_length=255)]
    content: Annotated[StrictStr, Field(max_length=MAX_FILE)] = Field(
        examples=["user_id,amount,description\n7,25.00,Bank transfer 4711\n"]
    )


class NewBatchIn(BatchIn):
    """Either the entries themselves, or a file with them."""

    file: FileIn | None = Field(
        default=None,
        description="Instead of the entries. The same file is the same batch: it is posted once.",
    )
    dry_run: StrictBool = Field(
        default=False, description="Answer what would happen now, and post nothing."
    )

    @model_validator(mode="before")
    @classmethod
    def read_file(cls, said: Any) -> Any:
        """Reads the entries from the file, so that they are checked like any others."""
        if not isinstance(said, dict) or said.get("file") is None:
            return said
        if "entries" in said:
            raise ValueError("Give either entries or a file.")
        file = FileIn.model_validate(said["file"])
        return said | {"entries": entries_of_csv(file.content)}


def entries_of_csv(content: str) -> list[dict[str, Any]]:
    """Returns the lines of a CSV file as entries. Empty cells are left out."""
    lines = csv.DictReader(io.StringIO(content.removeprefix("\ufeff")), strict=True)
    known = set(BatchEntryIn.model_fields) - {"metadata"}
    try:
        if unknown := [name for name in lines.fieldnames or () if name not in known]:
            raise ValueError(f"The file has a column that is not known: {unknown[0]}.")
        entries: list[dict[str, Any]] = []
        for line in lines:
            if None in line:
                raise ValueError(f"Line {lines.line_num} of the file has too many cells.")
            cells = {name: cell.strip() for name, cell in line.items() if cell and cell.strip()}
            entries.append(
                {
                    name: int(cell) if name in WHOLE and WHOLE_NUMBER.fullmatch(cell) else cell
                    for name, cell in cells.items()
                }
            )
    except csv.Error as problem:
        raise ValueError(f"Line {lines.line_num} of the file is no CSV: {problem}.") from None
    return entries


class BatchFiguresOut(ResponseModel):
    """Transactions that were posted together. Its figures are those of its transactions."""

    id: int
    kind: Batch.Kind
    title: str
    actor_id: int | None
    channel: Channel
    file_name: str | None
    file_hash: str | None = Field(description="SHA-256 of the file, hexadecimal.")
    created_at: MomentOut
    entries: int = Field(description="How many entries it was given.")
    posted: int = Field(description="How many transactions it has.")
    refused: int
    state: Batch.State = Field(description="Whether it was reversed as a batch.")
    real: AmountOut = Field(description="What it added to real balances, less what it took.")
    bonus: AmountOut
    reverses: int | None = Field(description="The ID of the batch that it reverses.")


class PostedBatchOut(ResponseModel):
    batch: BatchFiguresOut | None = Field(description="Null: nothing was posted.")
    results: list[BatchResultOut] = Field(description="In the order of the entries.")


class BatchPage(ResponseModel):
    batches: list[BatchFiguresOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


class BatchReversalIn(RequestModel):
    model_config = example(description="The file was of last month")

    description: Text = Field(description=f"{LENGTHS}.")
    skip_refused: StrictBool = Field(
        default=False, description="Reverse what can be reversed. Otherwise all, or nothing."
    )
    dry_run: StrictBool = Field(
        default=False, description="Answer what would happen now, and post nothing."
    )


# --- Reasons ------------------------------------------------------------------------------------


class ReasonOut(ResponseModel):
    """Why balances are changed. Its template is the description of a change without one."""

    code: str
    label: str
    template: str
    fields: list[str] = Field(description="What stands in braces in the template.")
    direction: Reason.Direction
    balances: Reason.Balances
    bonus_days: int | None = Field(description="For how many days an added bonus can be spent.")
    is_comment_required: bool
    is_active: bool


class ReasonsOut(ResponseModel):
    reasons: list[ReasonOut]


# --- Transactions -------------------------------------------------------------------------------


class BalanceAtOut(BalanceOut):
    """A user's balances now or at a time, including transactions of that very moment."""

    user_id: int
    currency: str = Field(description="ISO 4217.", examples=["USD"])
    at: MomentOut | None = Field(description="The requested time; null: now.")


class TransactionWithReversalOut(TransactionOut):
    reversed_by: int | None = Field(
        description="The number of the reversal after which nothing of it was left, if there is "
        "one."
    )
    reversals: list[int] = Field(
        description="The numbers of all transactions that took it back, whole or in part."
    )
    grants_used: list[GrantUseOut] = Field(
        description="The grants that it took from or, with negative amounts, gave back to."
    )


class TransactionPage(ResponseModel):
    transactions: list[TransactionOut]
    has_more: bool = Field(description="True if further entries exist now.")
    next_cursor: str | None = Field(
        description="Where to continue. Newest first, it is null on the last page. Oldest first, "
        "it is always present: ask with it later to get the entries added since."
    )


class PreviewedTransactionOut(ResponseModel):
    """The transaction that would be posted now."""

    number: int
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


class GrantOut(ResponseModel):
    """Bonus money that a transaction gave, and what is left of it."""

    number: int = Field(description="The number of the transaction that gave it.")
    amount: AmountOut
    left: AmountOut
    expires_at: MomentOut | None = Field(
        description="The moment from which it cannot be spent; null: never."
    )


class GrantsOut(ResponseModel):
    grants: list[GrantOut] = Field(
        description="In the order in which they are spent; those that are used up are left out."
    )


class GrantChangeIn(RequestModel):
    model_config = example(expires_at="2026-12-31")

    expires_at: ExpiryIn | None = Field(
        description="A time, or the last day on which it can be spent, in the installation's time "
        "zone; null: it never expires."
    )


class RefundIn(RequestModel):
    model_config = example(description="Ten messages were not delivered", quantity="10")

    description: Text = Field(
        description=f"{LENGTHS}: why.", examples=["Ten messages were not delivered"]
    )
    amount: AmountIn | None = Field(
        default=None, description="How much to take back: more than zero."
    )
    quantity: QuantityIn | None = Field(
        default=None, description="For a service charge, instead: how many units to take back."
    )
    although_paid_back: StrictBool = Field(
        default=False,
        description="Refund the charge of a subscription although a part of it was paid back.",
    )
    expected_number: ExpectedNumber = None


class MoveIn(RequestModel):
    model_config = example(description="Of the customer with the same name", to_user_id=8)

    description: Text = Field(
        description=f"{LENGTHS}: why. The description of the transaction that takes it back.",
        examples=["Of the customer with the same name"],
    )
    to_user_id: Id = Field(description="The user whose payment it is.")
    expected_number: ExpectedNumber = None


class MovedOut(ResponseModel):
    reversal: TransactionOut = Field(description="What took it back from the wrong user.")
    transaction: TransactionOut = Field(description="The payment of the right user.")


class MergeIn(RequestModel):
    model_config = example(into_user_id=8)

    into_user_id: Id = Field(description="The user who is kept and gets everything.")
    description: Text = Field(
        "", description=f"Of the transactions: {LENGTHS}. Empty: they say where the money goes."
    )


class MergedOut(ResponseModel):
    """A duplicate and the user who is kept, after the merge, and what was posted to both."""

    duplicate: UserOut
    user: UserOut
    transactions: list[TransactionOut] = Field(description="In the order of posting.")


class MergePreviewTransactionOut(PreviewedTransactionOut):
    user_id: int


class MergePreviewOut(ResponseModel):
    """What a merge would come to now. Nothing was posted."""

    duplicate: UserOut
    user: UserOut
    transactions: list[MergePreviewTransactionOut] = Field(description="In the order of posting.")


class ForgottenOut(ResponseModel):
    """A user whose personal data was erased, and the user's duplicates, forgotten too."""

    user: UserOut
    duplicates: list[UserOut]


class ReversalIn(RequestModel):
    model_config = example(description="Charged for the wrong device")

    description: Text = Field(
        description=f"{LENGTHS}: why.", examples=["Charged for the wrong device"]
    )
    although_paid_back: StrictBool = Field(
        default=False,
        description="Reverse the charge of a subscription although a part of it was paid back.",
    )
    metadata: Metadata = Field(default_factory=dict)
    expected_number: ExpectedNumber = None


# --- Services and plans -------------------------------------------------------------------------


class ServiceChargeIn(RequestModel):
    """A use of a service."""

    model_config = example(service="outgoing_sms", quantity="10")

    service: Annotated[Text, Field(max_length=100, description="Its code.")] = Field(
        examples=["outgoing_sms"]
    )
    quantity: QuantityIn
    device: Device = Field(
        default="",
        description="The device's own plan sets the price or, without one, the user's own plan.",
    )
    description: Text = Field(
        default="",
        description=f"Up to {DESCRIPTION_MAX_LENGTH} characters. Empty: written from service, "
        "quantity, plan and device.",
    )
    metadata: Metadata = Field(default_factory=dict)
    expected_number: ExpectedNumber = None


class QuoteOut(ResponseModel):
    """What a use of a service would cost now, and from which balance."""

    service: str
    quantity: str
    unit: str = Field(description="The unit of the quantity; may be empty.", examples=["MB"])
    device: str
    plan_id: int
    plan: str
    unit_price: AmountOut
    cost: AmountOut
    bonus_pays: AmountOut
    real_pays: AmountOut
    new_balance: AmountOut
    new_bonus: AmountOut
    description: str


class ServiceOut(ResponseModel):
    """Something charged per use. Each plan has its own price for it."""

    id: int
    code: str
    name: str
    unit: str = Field(description="The unit of a quantity; may be empty.")
    is_active: bool = Field(description="If false, it is retired and cannot be charged.")


class ServicePage(ResponseModel):
    services: list[ServiceOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


class ServicePriceOut(ResponseModel):
    service: str = Field(description="Its code.")
    name: str
    unit: str
    price: AmountOut = Field(description="Of one unit.")


class PlanOut(ResponseModel):
    """A pricing plan. A service without a price is not available under it."""

    id: int
    name: str
    cycle: Cycle
    price: AmountOut
    price_is_per: str = Field(examples=["month"])
    proportional_charge: bool = Field(
        description="A subscription that starts within a month (or year) is charged for its "
        "remaining days only."
    )
    is_active: bool = Field(description="If false, it is retired: nobody can subscribe any more.")
    services: list[ServicePriceOut]


class PlanPage(ResponseModel):
    plans: list[PlanOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


# --- Subscriptions ------------------------------------------------------------------------------


class NextChargeOut(ResponseModel):
    day: DayOut | None = Field(
        description="null: after the next active day or, if suspended, once there is money."
    )
    amount: AmountOut


class SubscriptionStateOut(ResponseModel):
    """A user's use of a plan, for one device or, without one, for the account as a whole."""

    id: int
    user_id: int
    plan_id: int
    plan: str
    device: str
    status: Subscription.Status
    started_on: DayOut
    plan_since: DayOut
    status_since: DayOut
    suspension_reason: Subscription.SuspensionReason | None = Field(
        description="The reason for the suspension; null: it is not suspended."
    )
    charged_from: DayOut | None
    charged_through: DayOut | None
    paid: AmountOut = Field(
        description="The amount charged for the days from charged_from to charged_through."
    )
    charge_number: int | None = Field(
        description="The number of the transaction that paid for these days."
    )


class SubscriptionOut(SubscriptionStateOut):
    """A subscription, and its next charge."""

    next_charge: NextChargeOut | None = Field(
        description="The next charge if nothing changes; null: none, it is cancelled."
    )


class SubscriptionPage(ResponseModel):
    subscriptions: list[SubscriptionOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


class SubscriptionIn(RequestModel):
    model_config = example(plan_id=2, device="8617", wait_for_money=False)

    plan_id: Id
    device: Device = Field(default="", description="Empty: the user's own pricing plan.")
    wait_for_money: StrictBool = Field(
        default=False,
        description="Start suspended if the first charge cannot be paid or the user is "
        "deactivated.",
    )


class PlanChangeIn(RequestModel):
    model_config = example(plan_id=3, pay_back=True, charge_now=True)

    plan_id: Id
    pay_back: StrictBool = Field(description="Pay back what was paid for today and later.")
    charge_now: StrictBool = Field(
        description="Charge the new plan from today on. Otherwise it is charged once the paid days "
        "are used up or, if they are paid back, from its next regular day."
    )


class CancellationIn(RequestModel):
    pay_back: StrictBool = Field(description="Pay back what was paid for today and later.")


class SubscriptionChangeOut(ResponseModel):
    """A subscription after an operation, and the posted transactions, in order."""

    subscription: SubscriptionOut
    transactions: list[TransactionOut]


class PreviewedSubscriptionOut(SubscriptionOut):
    id: int | None = Field(description="null: it does not exist yet.")  # type: ignore[assignment]


class SubscriptionPreviewOut(ResponseModel):
    """The subscription after a possible operation, and what would be posted. Nothing was posted."""

    subscription: PreviewedSubscriptionOut
    transactions: list[PreviewedTransactionOut]


class VoucherIn(RequestModel):
    model_config = example(code="7QXK-M3WP-ZT9B")

    code: Annotated[Text, Field(max_length=100)] = Field(
        description="Small letters, spaces and hyphens do not matter."
    )
    dry_run: StrictBool = Field(
        default=False, description="Answer what would happen now, and give nothing."
    )


class VoucherOut(ResponseModel):
    id: int
    title: str


class RedeemedOut(ResponseModel):
    """What a voucher gave or, in a dry run, would give now."""

    voucher: VoucherOut
    transaction: TransactionOut | PreviewedTransactionOut | None = Field(
        description="null: the voucher gives only a plan."
    )
    subscription: PreviewedSubscriptionOut | None = Field(
        description="null: the voucher gives no plan."
    )
    charges: list[TransactionOut | PreviewedTransactionOut] = Field(
        description="What was charged for the subscription."
    )


class ActiveDayIn(RequestModel):
    device: Device = Field(description="Empty: the account as a whole.", examples=["8617"])
    day: Day


class ActiveDayOut(ResponseModel):
    device: str
    day: DayOut
    subscription_id: int | None = Field(
        description="The subscription that is charged for the day: the device's own, else the "
        "account's."
    )
    is_charged: bool


class ActiveDayPage(ResponseModel):
    active_days: list[ActiveDayOut]
    next_cursor: str | None = Field(description="For the next page; null: this is the last page.")


# --- Thresholds ---------------------------------------------------------------------------------


class ThresholdIn(RequestModel):
    amount: AmountIn | None = Field(
        description="null: programs are never told.", examples=["10.00", None]
    )


class ThresholdOut(ResponseModel):
    """The real balance below which webhooks send `balance.low`."""

    user_id: int
    amount: AmountOut | None = Field(description="null: programs are not told.")
    is_default: bool = Field(
        description="True if it is the installation's default, not the user's own."
    )
