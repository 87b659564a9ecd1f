"""One call: its operator, its time and its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from django.http.response import HttpResponseBase

from billing import operations
from billing.api.panel.errors import NOT_FOUND, NOT_PERMITTED, Refused
from billing.api.panel.parameters import Parameters
from billing.errors import UnknownUser
from billing.models import ApiSession
from users.models import User


@dataclass(frozen=True)
class Call:
    """`operator` is the actor of everything that the call does."""

    session: ApiSession
    parameters: Parameters
    now: datetime

    @property
    def operator(self) -> User:
        return self.session.operator

    @property
    def today(self) -> date:
        """Today's date in UTC, which subscriptions use."""
        return self.now.astimezone(UTC).date()

    def may(self, permission: str) -> bool:
        return self.operator.has_perm(permission)

    def needs(self, permission: str) -> None:
        if not self.may(permission):
            raise Refused(NOT_PERMITTED)

    def customer(self, name: str = "user_id", *, within: Parameters | None = None) -> User:
        """Returns the customer with the ID in parameter `name`. Operators are not customers."""
        user_id = (within or self.parameters).whole(name)
        try:
            return operations.customers.find_customer(user_id)
        except UnknownUser:
            raise Refused(NOT_FOUND) from None


CallResult = dict[str, Any] | HttpResponseBase


class Action(NamedTuple):
    """What a call does, and the permission that it needs: that of the panel's page for the same.

    None: every operator may make it, about their own session.
    """

    run: Callable[[Call], CallResult]
    permission: str | None
