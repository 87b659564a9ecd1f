"""Pages that show what they are going to do, and do just that once it is confirmed.

The preview is made by doing the thing itself and undoing it, so it cannot say anything else than
what happens. Confirming does it again, and keeps it only if it came to what the operator saw;
otherwise (another transaction came in, a price changed, midnight passed) it is undone once more and
the new preview is shown. Nothing here depends on scripts.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, ClassVar, Final, NamedTuple

from django import forms
from django.db import transaction
from django.forms.boundfield import BoundField

from billing.admin.pages import PanelForm, confirmation_key, outages_told_in
from billing.errors import BillingError
from billing.models import Transaction
from users.models import User

# What the preview shows of a transaction, or what makes it another one.
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
    """What an action came to: what it posted, what else there is to know, and all in a sentence."""

    posted: Sequence[Transaction]
    facts: Sequence[tuple[str, str]]
    sentence: str

    @property
    def touches_bonus(self) -> bool:
        return any(row.bonus_amount for row in self.posted)

    @property
    def fingerprint(self) -> str:
        """Equal for outcomes that look equal to whoever confirms them."""
        rows = [[str(getattr(row, name)) for name in SHOWN] for row in self.posted]
        return sha256(json.dumps([rows, self.facts]).encode()).hexdigest()


class ConfirmedForm(PanelForm):
    """Asks for an action on `user`, which the second step shows and then does.

    `seen` is the fingerprint of the preview that is confirmed.
    """

    seen = forms.CharField(required=False, widget=forms.HiddenInput, max_length=64)

    # The fields that refusals stand at, by the kind of refusal; others stand above the form.
    fields_of_refusals: ClassVar[dict[type[BillingError], str]] = {}
    # Refusals that a confirmation gets which was sent twice: the first one did it.
    done_before: ClassVar[tuple[type[BillingError], ...]] = ()

    def __init__(self, user: User, actor: User, data: Any = None, **options: Any) -> None:
        self.user = user
        self.actor = actor
        super().__init__(data, **options)

    def perform(self) -> Effect:
        """Does it. Raises BillingError."""
        raise NotImplementedError

    def refuse(self, refusal: BillingError) -> None:
        self.add_error(self.fields_of_refusals.get(type(refusal)), str(refusal))

    def asked(self) -> Sequence[BoundField]:
        """The fields to fill in; the second step carries them along unseen."""
        return self.visible_fields()


class Stage(NamedTuple):
    """Where a page is: asking (nothing set), showing the `preview`, or through."""

    preview: Effect | None = None
    has_moved: bool = False  # what is shown is not what was confirmed
    done: Effect | None = None
    done_before: BillingError | None = None
    key: str = ""


def advance(form: ConfirmedForm) -> Stage:
    """Previews what was asked for, or does what was confirmed; the form's errors say why not."""
    if not form.is_bound or "edit" in form.data or not form.is_valid():
        return Stage()
    is_confirmed = "confirm" in form.data
    outcome: Effect | None = None
    try:
        with outages_told_in(form), transaction.atomic():
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
