"""What the proofs of the ledger found, for the start page and for monitoring."""

from datetime import datetime, timedelta
from typing import Final, NamedTuple

from billing.models import Proof, Transaction

PROOF_STALE_AFTER: Final = timedelta(days=2)


class ProofState(NamedTuple):
    """The latest proof, the latest of all rows, and what is wrong.

    A proof of new rows does not take back what a proof of all rows has found.
    """

    latest: Proof | None
    latest_full: Proof | None
    failed: Proof | None
    is_stale: bool


def proof_state(now: datetime) -> ProofState:
    proofs = Proof.objects.order_by("-finished_at", "-id")
    latest = proofs.first()
    latest_full = proofs.filter(kind=Proof.Kind.FULL).first()
    failed = next((proof for proof in (latest, latest_full) if proof and proof.problem), None)
    clean = proofs.filter(problem="").first()
    # A new installation has a while until its first proof.
    since = clean.finished_at if clean else _first_transaction_at()
    return ProofState(
        latest, latest_full, failed, since is not None and now - since > PROOF_STALE_AFTER
    )


def _first_transaction_at() -> datetime | None:
    dates = Transaction.objects.order_by("created_at", "id").values_list("created_at", flat=True)
    return dates.first()
