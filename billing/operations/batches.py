"""Batches: posting many changes together, and taking a whole batch back."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from django.db.models import F, Sum

from billing import ledger
from billing.errors import AlreadyPaidBack, BatchReversed, BillingError, UnknownBatch
from billing.ledger import Entry, Posted
from billing.models import Batch, Channel, Transaction, TransactionType
from billing.money import ZERO
from billing.operations._common import one_transaction
from users.models import User

FILE_KEY = "file:{hash}:{place}"  # the idempotency key of an entry of a file that has none
KEPT_OF_HASH = 32


@dataclass(frozen=True)
class PostedBatch:
    """The batch, its entries, and the result of each. Without a batch, nothing was posted."""

    batch: Batch | None
    entries: Sequence[Entry]
    results: Sequence[Posted]

    @property
    def refused(self) -> list[tuple[int, BillingError]]:
        """The entries that were refused: their places, from 1, and why."""
        return [
            (place, result.refusal)
            for place, result in enumerate(self.results, start=1)
            if result.refusal is not None
        ]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """What a batch is told about itself: what it is, and the file from which it came."""

    kind: Batch.Kind
    title: str
    file_name: str = ""
    file_hash: str = ""
    reverses: Batch | None = field(default=None)


def post(
    entries: Sequence[Entry],
    sheet: Sheet,
    *,
    actor: User | None,
    channel: Channel,
    skip_refused: bool = False,
    refused_before: int = 0,
    dry_run: bool = False,
) -> PostedBatch:
    """Posts all entries as one batch or, if one is refused, none; see `billing.ledger.post_batch`.

    The same file is the same batch: what it posted before is not posted again, and what was
    refused is tried again. For this, an entry of a file without an idempotency key gets that of its
    place. `refused_before` is how many entries the caller has refused itself; the others then have
    their keys already (`key_of_line`).
    """
    with one_transaction(dry_run=dry_run):
        batch = begin(sheet, actor=actor, channel=channel)
        results = ledger.post_batch(
            [_of_batch(entry, batch, place) for place, entry in enumerate(entries, start=1)],
            actor=actor,
            channel=channel,
            skip_refused=skip_refused,
        )
        refused = refused_before + sum(result.refusal is not None for result in results)
        rows = [row for outcome, row, _ in results if outcome == "posted" and row is not None]
        counted = add_figures(
            batch,
            # A file that is tried again has the same entries.
            entries=max(len(entries) + refused_before - batch.entries, 0),
            refused=refused - batch.refused,
            posted=len(rows),
            real=sum((row.amount for row in rows), ZERO),
            bonus=sum((row.bonus_amount for row in rows), ZERO),
        )
        return PostedBatch(counted, entries, results)


def begin(sheet: Sheet, *, actor: User | None, channel: Channel) -> Batch:
    """Returns the batch of this file, locked for this database transaction, or a new one.

    `add_figures` ends each database transaction that posts for it.
    """
    said = {
        "kind": sheet.kind,
        "title": sheet.title,
        "actor": actor,
        "channel": channel,
        "file_name": sheet.file_name[:255],
        "reverses": sheet.reverses,
    }
    if not sheet.file_hash:
        return Batch.objects.create(**said)
    # Whoever posts the same file at the same time waits here until the other has ended.
    batch, is_new = Batch.objects.get_or_create(file_hash=sheet.file_hash, defaults=said)
    return batch if is_new else Batch.objects.select_for_update(of=("self",)).get(pk=batch.pk)


def _of_batch(entry: Entry, batch: Batch, place: int) -> Entry:
    """Returns the entry with its batch and, if it came from a file, a key of its line."""
    key = entry.idempotency_key
    if key is None and batch.file_hash:
        key = key_of_line(batch.file_hash, place)
    return replace(entry, batch=batch.pk, idempotency_key=key)


def key_of_line(file_hash: str, place: int) -> str:
    """Returns the idempotency key of a file's entry at this place, from 1."""
    return FILE_KEY.format(hash=file_hash[:KEPT_OF_HASH], place=place)


def add_figures(
    batch: Batch, *, entries: int, refused: int = 0, posted: int, real: Decimal, bonus: Decimal
) -> Batch | None:
    """Adds figures to a batch, in the database transaction of its postings.

    A batch that has posted nothing is no batch: it is deleted, and None is returned.
    """
    if not posted and not batch.posted:
        batch.delete()
        return None
    Batch.objects.filter(pk=batch.pk).update(
        entries=F("entries") + entries,
        refused=F("refused") + refused,
        posted=F("posted") + posted,
        real=F("real") + real,
        bonus=F("bonus") + bonus,
    )
    batch.refresh_from_db()
    return batch


# --- Taking a batch back ------------------------------------------------------------------------


def reverse(
    batch_id: int,
    *,
    description: str,
    actor: User | None,
    channel: Channel,
    skip_refused: bool = False,
    dry_run: bool = False,
) -> PostedBatch:
    """Reverses what is left of each transaction of a batch, as a batch of its own.

    All or none, unless `skip_refused`. Raises UnknownBatch, BatchReversed if nothing is left of
    any of them, and the refusal of the first transaction that cannot be reversed: AlreadyPaidBack
    for a subscription charge of which a remainder was paid back. `data["entry"]` is then its place
    among the rows of `to_reverse`.
    """
    with one_transaction(dry_run=dry_run):
        batch = Batch.objects.select_for_update(of=("self",)).filter(pk=batch_id).first()
        if batch is None:
            raise UnknownBatch(batch=batch_id)
        rows = to_reverse(batch)
        if not rows:
            raise BatchReversed(batch=batch.pk)
        refused = _paid_back(rows)
        if refused and not skip_refused:
            raise next(iter(refused.values()))
        sheet = Sheet(
            kind=Batch.Kind.REVERSAL,
            title=f"Reversal of batch {batch.pk}: {batch.title}"[:200],
            reverses=batch,
        )
        entries = [
            ledger.reversal_entry(row.user_id, number=row.number, description=description)
            for row in rows
        ]
        left = [entry for place, entry in enumerate(entries, start=1) if place not in refused]
        posted = post(
            left,
            sheet,
            actor=actor,
            channel=channel,
            skip_refused=skip_refused,
            refused_before=len(refused),
        )
        results = iter(posted.results)
        return PostedBatch(
            posted.batch,
            entries,
            [
                Posted("refused", None, refused[place]) if place in refused else next(results)
                for place in range(1, len(entries) + 1)
            ],
        )


def _paid_back(rows: Sequence[Transaction]) -> dict[int, BillingError]:
    """Returns refusals of subscription charges that would be returned twice, by place, from 1.

    Locks the balances, so that nobody pays back meanwhile. Only an imported history has charges of
    subscriptions. What was paid back in the batch itself is reversed before its charge.
    """
    charges = {
        place: row
        for place, row in enumerate(rows, start=1)
        if row.type == TransactionType.SUBSCRIPTION
    }
    if not charges:
        return {}
    ledger.lock_balances(sorted({row.user_id for row in rows}))
    refused: dict[int, BillingError] = {}
    for place, row in charges.items():
        paid_back = [each for each in ledger.paid_back_of(row) if each.batch_id != row.batch_id]
        if paid_back:
            amount = sum((ledger.left_of(each).real for each in paid_back), ZERO)
            refused[place] = AlreadyPaidBack(
                number=row.number,
                amount=str(amount),
                paid_back_by=paid_back[-1].number,
                entry=place,
            )
    return refused


def to_reverse(batch: Batch) -> list[Transaction]:
    """Returns the transactions of a batch of which something is left, the latest first.

    In this order, what a later one of a user took is given back before an earlier one needs it.
    """
    rows = batch.transactions.exclude(
        type__in=[TransactionType.REVERSAL, TransactionType.BONUS_EXPIRY]
    )
    taken_back = {
        (row["user_id"], row["reverses"]): (row["real"], row["bonus"])
        for row in Transaction.objects.filter(
            reverses__isnull=False, user__in=rows.values("user_id")
        )
        .values("user_id", "reverses")
        .annotate(real=Sum("amount"), bonus=Sum("bonus_amount"))
    }
    return [
        row
        for row in rows.order_by("-id")
        if (row.amount, row.bonus_amount)
        != tuple(-each for each in taken_back.get((row.user_id, row.number), (ZERO, ZERO)))
    ]
