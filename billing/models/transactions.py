"""Transactions: the rows of the ledger, and their names on pages."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import ClassVar, NamedTuple

from django.conf import settings
from django.contrib.postgres.indexes import BrinIndex
from django.db import connections, models
from django.db.models import Q

from billing.descriptions import DESCRIPTION_MAX_LENGTH
from billing.models.balances import money_field, total_field


class TransactionType(models.TextChoices):
    """The types. Existing integrations know these codes."""

    PAYMENT = "payment", "Payment"
    BONUS_REFILL = "bonus_charge", "Gift"
    BONUS_EXPIRY = "bonus_expiry", "Bonus expired"
    SUBSCRIPTION = "main_charge", "Subscription"
    SERVICE = "tariff_charge", "Service"
    REVERSAL = "reversal", "Reversal"


class Channel(models.TextChoices):
    """The channel of a transaction: the way it came in."""

    PANEL = "panel", "Panel"
    API = "api", "API"
    CHARGING = "charging", "Charging run"
    IMPORT = "import", "Import"
    SYSTEM = "system", "System"


SUBTYPE_LABELS = {
    "partner": "Manual or API",
    "import": "Import",
    "register": "Registration gift",
    "voucher": "Voucher",
    "monthly": "Monthly",
    "everyday": "Monthly, by day",
    "activeday": "Active day",
    "every_year": "Annual",
    "remainder": "Remainder",
    "incoming_sms": "Incoming SMS",
    "outgoing_sms": "Outgoing SMS",
    "service_sms": "Service SMS",
    "phone_call": "Phone call",
    "traffic": "Traffic",
}


_KNOWN_SUBTYPES = SUBTYPE_LABELS | dict(TransactionType.choices)


def subtype_label(subtype: str) -> str:
    """Returns a subtype for people. Services and gifts have codes of their own: "geo_lookup"."""
    return _KNOWN_SUBTYPES.get(subtype) or subtype.replace("_", " ").capitalize()


class Label(models.TextChoices):
    """The name of a transaction on pages and in files. Programs use its type.

    The codes are those of the types, and `deduction`.
    """

    PAYMENT = "payment", "Payment"
    DEDUCTION = "deduction", "Deduction"
    GIFT = "bonus_charge", "Gift"
    EXPIRY = "bonus_expiry", "Bonus expired"
    SUBSCRIPTION = "main_charge", "Subscription"
    SERVICE = "tariff_charge", "Service"
    REVERSAL = "reversal", "Reversal"

    @property
    def condition(self) -> Q:
        """A condition for transactions with this label: `label_of` for the database."""
        return LABELLED[self]


def label_of(type: str, amount: Decimal, bonus_amount: Decimal) -> Label:  # noqa: A002 - as the field
    """Returns the label of a transaction of this type with these amounts.

    In the ledger, every balance change by an operator or program is a payment. For people it is a
    payment if it adds to the real balance, a gift if it adds to the bonus balance alone, and
    otherwise a deduction.
    """
    if type != TransactionType.PAYMENT:
        return Label(type)
    if amount > 0:
        return Label.PAYMENT
    return Label.GIFT if amount == 0 and bonus_amount > 0 else Label.DEDUCTION


LABELLED_TYPES = frozenset(TransactionType.values) - {
    TransactionType.REVERSAL,
    TransactionType.BONUS_EXPIRY,
}
_BY_HAND = Q(type=TransactionType.PAYMENT)
_GIVES = Q(amount=0, bonus_amount__gt=0)
LABELLED = {
    Label.PAYMENT: _BY_HAND & Q(amount__gt=0),
    Label.DEDUCTION: _BY_HAND & Q(amount__lte=0) & ~_GIVES,
    Label.GIFT: Q(type=TransactionType.BONUS_REFILL) | (_BY_HAND & _GIVES),
    Label.EXPIRY: Q(type=TransactionType.BONUS_EXPIRY),
    Label.SUBSCRIPTION: Q(type=TransactionType.SUBSCRIPTION),
    Label.SERVICE: Q(type=TransactionType.SERVICE),
    Label.REVERSAL: Q(type=TransactionType.REVERSAL),
}


class Reference(NamedTuple):
    """Another transaction of the same user: what a link to it needs."""

    id: int
    number: int
    is_part: bool = False  # it takes back only a part


class TransactionManager(models.Manager["Transaction"]):
    def number_at(self, user_id: int, moment: datetime) -> int:
        """Returns the number of the user's last transaction up to `moment`; 0 if there is none."""
        with connections[self.db].cursor() as cursor:
            cursor.execute("SELECT billing_number_at(%s, %s)", [user_id, moment])
            number: int = cursor.fetchone()[0]
        return number


class Transaction(models.Model):
    """One operation on one user's two balances: a row of the ledger. Never changed or deleted.

    A row explains itself: it has the balances before and after, who caused it through which
    channel, and a digest that ties it to the user's previous row. `billing.ledger` alone creates
    rows. Another transaction corrects a mistake.
    """

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        related_name="transactions",
        db_index=False,  # the unique (user, number) serves
    )
    number = models.BigIntegerField(help_text="1, 2, 3, … for each user, without gaps.")
    type = models.CharField(max_length=16, choices=TransactionType)
    subtype = models.CharField(max_length=32)
    description = models.CharField(max_length=DESCRIPTION_MAX_LENGTH)
    device = models.CharField(max_length=100, blank=True, default="", db_default="")

    amount = money_field(help_text="Added to the real balance; negative: taken from it.")
    old_balance = money_field()
    new_balance = money_field()
    bonus_amount = money_field(help_text="Added to the bonus balance; negative: taken from it.")
    old_bonus = money_field()
    new_bonus = money_field()
    # Sums over the user's transactions up to this one. The totals of a period are the difference of
    # two rows, however long it is.
    refilled = total_field("all refills up to this one")
    bonus_refilled = total_field("all bonus refills up to this one")

    created_at = models.DateTimeField("date")
    actor = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,
        help_text="The operator who caused it. Empty: the system.",
    )
    channel = models.CharField(max_length=10, choices=Channel)
    idempotency_key = models.CharField(max_length=100, null=True, blank=True)  # noqa: DJ001 - absent is not ""
    reverses = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="The number of the user's transaction that this one reverses.",
    )
    metadata = models.JSONField(default=dict, blank=True, help_text="For integrators.")
    digest = models.BinaryField(help_text="SHA-256; see docs/ledger.md for its canonical form.")
    payment_date = models.DateField(
        null=True,
        blank=True,
        help_text="The day on which the payment was made, if it was posted later.",
    )
    bonus_expires_at = models.DateTimeField(
        "bonus expires",
        null=True,
        blank=True,
        help_text="The moment from which the added bonus cannot be spent. Empty: it never expires.",
    )
    form = models.SmallIntegerField(
        default=1, db_default=1, help_text="The version of the digest's canonical form."
    )
    reason = models.ForeignKey(
        "billing.Reason",
        to_field="code",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="+",
        db_index=False,  # the index below serves
        help_text="Why the balance was changed, by its code.",
    )
    batch = models.ForeignKey(
        "billing.Batch",
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="transactions",
        db_index=False,  # the index below serves
        help_text="The batch with which it was posted.",
    )

    # Set by the ledger on what it returns: an earlier call with the same idempotency key posted
    # this transaction, and nothing was changed now.
    replayed = False
    # Set by reports: the transactions that reversed this one, and the one that this one reverses.
    reversed_by: Sequence[Reference] = ()
    reversed_one: Reference | None = None

    objects: ClassVar[TransactionManager] = TransactionManager()

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["created_at", "id"], name="transaction_by_date"),
            models.Index(
                fields=["user", "reverses"],
                condition=Q(reverses__isnull=False),
                name="reversals_of_a_transaction",
            ),
            models.Index(
                fields=["payment_date"],
                condition=Q(payment_date__isnull=False),
                name="transaction_by_payment_date",
            ),
            models.Index(
                fields=["reason", "created_at", "id"],
                condition=Q(reason__isnull=False),
                name="transaction_by_reason",
            ),
            models.Index(
                fields=["batch", "created_at"],
                condition=Q(batch__isnull=False),
                name="transaction_by_batch",
            ),
            # For lists over all users. Postings that these conditions leave out pay nothing for it.
            models.Index(
                fields=["type", "created_at"], condition=Q(amount=0), name="gifts_and_expiries"
            ),
            models.Index(
                fields=["actor", "created_at"],
                condition=Q(actor__isnull=False),
                name="transaction_by_actor",
            ),
            # Small, and nearly free for postings. It finds the blocks in which a device may occur.
            BrinIndex(
                fields=["device"],
                opclasses=["text_bloom_ops"],
                autosummarize=True,
                pages_per_range=32,
                name="transaction_devices",
            ),
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["user", "number"],
                name="transaction_numbers_are_unique_per_user",
            ),
            models.UniqueConstraint(
                fields=["user", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="idempotency_keys_are_unique_per_user",
                violation_error_message="This idempotency key has been used.",
            ),
        ]

    def __str__(self) -> str:
        return f"Transaction {self.number} of user {self.user_id}"

    @property
    def label(self) -> Label:
        return label_of(self.type, self.amount, self.bonus_amount)

    @property
    def subtype_label(self) -> str:
        """The subtype for people; for a reversal, the label of the reversed transaction."""
        if self.type == TransactionType.REVERSAL and self.subtype in LABELLED_TYPES:
            return label_of(self.subtype, -self.amount, -self.bonus_amount).label
        return subtype_label(self.subtype)
