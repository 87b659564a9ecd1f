"""What the proofs of the ledger found, for the start page and for monitoring."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from billing.models import Proof, Transaction

PROOF_STALE_AFTER: Final = timedelta(days=2)


class ProofState(NamedTuple):
    """The latest proof, the latest of all rows, and what is wrong.

    A proof of new rows does not take back what a proof of all rows has found. One by hand does not
    take back what a scheduled one has found, because it may have compared nothing with heads.
    """

    latest: Proof | None
    latest_full: Proof | None
    failed: Proof | None
    is_stale: bool


def proof_state(now: datetime) -> ProofState:
    proofs = Proof.objects.order_by("-finished_at", "-id")
    latest = proofs.first()
    latest_full = proofs.filter(kind=Proof.Kind.FULL).first()
    scheduled = proofs.filter(started_by=Proof.Start.SCHEDULE)
    counting = (latest, latest_full, *scheduled[:1], *scheduled.filter(kind=Proof.Kind.FULL)[:1])
    failed = next((proof for proof in counting if proof and proof.problem), None)
    clean = proofs.filter(problem="").first()
    # A new installation has a while until its first proof.
    since = clean.finished_at if clean else _first_transaction_at()
    return ProofState(
        latest, latest_full, failed, since is not None and now - since > PROOF_STALE_AFTER
    )


def _first_transaction_at() -> datetime | None:
    dates = Transaction.objects.order_by("created_at", "id").values_list("created_at", flat=True)
    return dates.first()
