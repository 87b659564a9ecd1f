"""Errors: Navixy's codes, with their HTTP statuses and descriptions."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final, NamedTuple

from billing import counters
from billing.authority import whole_seconds
from billing.errors import (
    BalanceOutOfRange,
    BillingError,
    ClockBehind,
    IdempotencyConflict,
    InsufficientFunds,
    InvalidAmount,
    InvalidDescription,
    InvalidEntry,
    NothingToChange,
    PlanRetired,
    UnknownUser,
)
from users.database import Outage

DATABASE_ERROR: Final = 1
WRONG_HASH: Final = 3
SESSION_ENDED: Final = 4
WRONG_FORMAT: Final = 5
UNEXPECTED: Final = 6
INVALID_PARAMETERS: Final = 7
ACCESS_DENIED: Final = 11
NOT_PERMITTED: Final = 13
TOO_MANY_REQUESTS: Final = 15
WRONG_LOGIN: Final = 102
WRONG_HANDLER: Final = 111
WRONG_METHOD: Final = 112
NOT_FOUND: Final = 201
LOGIN_IN_USE: Final = 206
SPAN_TOO_BIG: Final = 211
INSUFFICIENT_FUNDS: Final = 251


class Meaning(NamedTuple):
    status: int
    description: str


MEANINGS: Final[Mapping[int, Meaning]] = {
    DATABASE_ERROR: Meaning(503, "Database error"),
    WRONG_HASH: Meaning(400, "Wrong hash"),
    SESSION_ENDED: Meaning(400, "User not found or session ended"),
    WRONG_FORMAT: Meaning(400, "Wrong request format"),
    UNEXPECTED: Meaning(500, "Unexpected error"),
    INVALID_PARAMETERS: Meaning(400, "Invalid parameters"),
    ACCESS_DENIED: Meaning(403, "Access denied"),
    NOT_PERMITTED: Meaning(403, "Operation not permitted"),
    TOO_MANY_REQUESTS: Meaning(429, "Too many requests"),
    WRONG_LOGIN: Meaning(400, "Wrong login or password"),
    WRONG_HANDLER: Meaning(400, "Wrong handler"),
    WRONG_METHOD: Meaning(400, "Wrong method"),
    NOT_FOUND: Meaning(400, "Not found in the database"),
    LOGIN_IN_USE: Meaning(400, "Login already in use"),
    SPAN_TOO_BIG: Meaning(400, "Requested time span is too big"),
    INSUFFICIENT_FUNDS: Meaning(403, "Insufficient funds"),
}


class Refused(Exception):
    """A call fails with this error. `errors` names the parameters that caused it, if any."""

    def __init__(
        self, code: int, *errors: tuple[str, str], headers: Mapping[str, str] | None = None
    ) -> None:
        self.code = code
        self.errors: Sequence[tuple[str, str]] = errors
        self.headers = headers or {}
        super().__init__(MEANINGS[code].description)

    @property
    def status(self) -> int:
        return MEANINGS[self.code].status

    @property
    def body(self) -> dict[str, Any]:
        status = {"code": self.code, "description": MEANINGS[self.code].description}
        body: dict[str, Any] = {"success": False, "status": status}
        if self.errors:
            body["errors"] = [
                {"parameter": parameter, "error": error} for parameter, error in self.errors
            ]
        return body


class Invalid(Refused):
    """Parameters are missing or invalid."""

    def __init__(self, *errors: tuple[str, str]) -> None:
        super().__init__(INVALID_PARAMETERS, *errors)


def too_many_requests(wait: timedelta) -> Refused:
    return Refused(TOO_MANY_REQUESTS, headers={"Retry-After": str(whole_seconds(wait))})


def database_error(outage: Outage) -> Refused:
    """Returns the error of an outage. The call may be repeated; with a key it is done once."""
    counters.outage(outage.code)
    return Refused(DATABASE_ERROR, headers={"Retry-After": str(outage.retry_after_seconds)})


# The parameter that a refusal is about. Other refusals are errors of code 7, too.
_PARAMETERS: Final[Mapping[type[BillingError], str]] = {
    InvalidAmount: "amount",
    NothingToChange: "amount",
    BalanceOutOfRange: "amount",
    InvalidDescription: "text",
    IdempotencyConflict: "idempotency_key",
    PlanRetired: "default_tariff_id",
}
# Fields of refusals that have another name here.
_NAMES: Final[Mapping[str, str]] = {"description": "text", "bonus_amount": "amount"}


def refused_by_the_ledger(refusal: BillingError) -> Refused:
    if isinstance(refusal, InsufficientFunds):
        return Refused(INSUFFICIENT_FUNDS)
    if isinstance(refusal, UnknownUser):
        return Refused(NOT_FOUND)
    if isinstance(refusal, ClockBehind):
        return Refused(UNEXPECTED, (refusal.code, str(refusal)))
    if isinstance(refusal, InvalidEntry):
        field = str(refusal.data["field"])
        return Invalid((_NAMES.get(field, field), str(refusal)))
    return Invalid((_PARAMETERS.get(type(refusal), refusal.code), str(refusal)))
