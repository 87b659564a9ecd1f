"""Pages that show what they will do, and do exactly that when it is confirmed.

The preview carries out the operation and rolls it back, so it shows what really happens. Confirming
carries it out again, and keeps it only if the result is what the operator saw. If not (another
transaction came in, a price changed, midnight passed), it is rolled back again and the new preview
is shown. Works without scripts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, NamedTuple

from django import forms
from django.db import transaction
from django.forms.boundfield import BoundField

from billing.admin.pages import PanelForm, confirmation_key, outages_shown_in
from billing.errors import BillingError
from billing.models import Transaction
from users.models import User

# The fields of a transaction that the preview shows, or that make it another one.
SHOWN: Final = (
    "number",
    "type",
    "subtype",
    "description",
    "device",
    "amount",
    "old_balance",
    "new_balance",
    "bonus_amount",
    "old_bonus",
    "new_bonus",
)


@dataclass(frozen=True)
class Effect:
    """The result of an action: the transactions, further facts, and a sentence."""

    posted: Sequence[Transaction]
    facts: Sequence[tuple[str, str]]
    sentence: str

    @property
    def touches_bonus(self) -> bool:
        return any(row.bonus_amount for row in self.posted)

    @property
    def is_of_several_users(self) -> bool:
        return len({row.user_id for row in self.posted}) > 1

    @property
    def fingerprint(self) -> str:
        """A text that is equal for results that look the same on the page."""
        rows = [[str(getattr(row, name)) for name in SHOWN] for row in self.posted]
        return sha256(json.dumps([rows, self.facts]).encode()).hexdigest()


class ConfirmedForm(PanelForm):
    """A form for an action on `user`, which the second step previews and then does.

    `seen` is the fingerprint of the confirmed preview.
    """

    seen = forms.CharField(required=False, widget=forms.HiddenInput, max_length=64)

    # The fields at which refusals are shown, by kind; others are shown above the form.
    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {}
    # Refusals that mean that the confirmation was sent twice and the first one succeeded.
    done_before: ClassVar[tuple[type[BillingError], ...]] = ()

    def __init__(self, user: User, actor: User, data: Any = None, **options: Any) -> None:
        self.user = user
        self.actor = actor
        super().__init__(data, **options)

    def perform(self) -> Effect:
        """Carries out the action. Raises BillingError."""
        raise NotImplementedError

    def refuse(self, refusal: BillingError) -> None:
        self.add_error(self.fields_of_refusals.get(type(refusal)), str(refusal))

    def asked(self) -> Sequence[BoundField]:
        """The fields to fill in; hidden in the second step."""
        return self.visible_fields()


class Stage(NamedTuple):
    """The stage of a page: asking (nothing set), showing the `preview`, or done."""

    preview: Effect | None = None
    has_moved: bool = False  # the shown preview differs from the confirmed one
    done: Effect | None = None
    done_before: BillingError | None = None
    key: str = ""


def advance(form: ConfirmedForm) -> Stage:
    """Previews or does what the form asks for. If it is refused, the form's errors say why."""
    if not form.is_bound or "edit" in form.data or not form.is_valid():
        return Stage()
    is_confirmed = "confirm" in form.data
    outcome: Effect | None = None
    try:
        with outages_shown_in(form), transaction.atomic():
            outcome = form.perform()
            if is_confirmed and outcome.fingerprint == form.cleaned_data["seen"]:
                return Stage(done=outcome)
            transaction.set_rollback(True)
    except BillingError as refusal:
        if is_confirmed and isinstance(refusal, form.done_before):
            return Stage(done_before=refusal)
        form.refuse(refusal)
        return Stage()
    if form.outage is not None:
        return Stage()
    return Stage(preview=outcome, has_moved=is_confirmed, key=confirmation_key())
