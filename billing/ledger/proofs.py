"""The nightly proof of the ledger, and the record of all proofs.

`prove` compares the ledger with the newest heads file in LEDGER_HEADS_DIR and checks what came
since; once a week, and without such a file, it checks everything. If all is right, it leaves the
next heads file. That one is written before the check begins, so the check covers everything up to
its heads. Nothing in the database decides which file is compared: the files are signed.
"""

import logging
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Final

from django.conf import settings
from django.db import DatabaseError

from billing.ledger import against_heads, heads, signing, verification
from billing.ledger.heads import Heads, UnusableHeads
from billing.ledger.signing import PublicKey, UnusableKey
from billing.ledger.verification import Checked
from billing.models import Proof
from billing.sql import guards
from users.database import in_one_line, outage_of

log = logging.getLogger(__name__)

FULL_EVERY: Final = timedelta(days=7)
SLACK: Final = timedelta(hours=1)  # a job may be late one week and punctual the next
KEEP: Final = timedelta(days=366)

FULL, INCREMENTAL = Proof.Kind.FULL, Proof.Kind.INCREMENTAL


def prove(
    started_at: datetime, *, clock: Callable[[], datetime], should_stop: Callable[[], bool]
) -> Proof | None:
    """Proves the ledger and records the result. Returns None if it was told to stop."""
    try:
        proof = _prove(started_at, should_stop)
    except (UnusableKey, UnusableHeads) as problem:
        proof = _unproved(started_at, str(problem))
    except OSError as problem:
        reason = problem.strerror or str(problem)
        where = settings.LEDGER_HEADS_DIR
        proof = _unproved(started_at, f"The heads could not be written to {where}: {reason}.")
    if proof is None:
        return None
    record(proof, finished_at=clock())
    if proof.problem:
        log.error("The ledger was not proved: %s", proof.problem)
    else:
        heads.tidy(settings.LEDGER_HEADS_DIR, started_at)
    return proof


def _prove(started_at: datetime, should_stop: Callable[[], bool]) -> Proof | None:
    key, folder = signing.own_key(), settings.LEDGER_HEADS_DIR
    earlier = newest_proved(folder, key.public)
    kind, proved_at = FULL, started_at
    before = earlier and earlier.fully_proved_at
    if before and started_at - before < FULL_EVERY - SLACK:
        kind, proved_at = INCREMENTAL, before
    path = folder / heads.name_at(started_at)
    with heads.drafted(path, key, made_at=started_at, fully_proved_at=proved_at) as draft:
        proof = _unproved(started_at, "", kind)
        try:
            for checked in checks(earlier, kind, settings.LEDGER_PROOF_PROCESSES):
                proof.transactions += checked.transactions
                proof.users += checked.users
                proof.problem = str(checked.problem or "")
                if should_stop():
                    return None
        except DatabaseError as error:
            if outage_of(error) is not None:
                raise
            proof.problem = could_not_check(error)
        proof.problem = proof.problem or " ".join(guards.problems())
        if not proof.problem:
            draft.publish()
            proof.heads = path.name
    return proof


def checks(earlier: Heads | None, kind: str, processes: int) -> Iterator[Checked]:
    """Checks the ledger against earlier heads: all of it, or only what came since."""
    if earlier is None:
        return verification.check(verification.stretches(), processes=processes)
    if kind == INCREMENTAL:
        return against_heads.check_since(earlier, processes=processes)
    everything = chain(
        against_heads.check_heads(earlier), verification.tasks(verification.stretches())
    )
    return verification.in_order(everything, processes)


def newest_proved(folder: Path, public_key: PublicKey) -> Heads | None:
    """Returns the newest heads whose proof was clean; only such a file says when it was."""
    for path in heads.files_in(folder):
        try:
            found = heads.read(path, public_key)
        except UnusableHeads as problem:
            log.error("The proof does without a heads file. %s", problem)
            continue
        if found.fully_proved_at is not None:
            return found
    return None


def could_not_check(error: DatabaseError) -> str:
    """Returns a sentence for an error that says that somebody changed the tables."""
    return f"The rows could not be checked: {in_one_line(error)}"


def _unproved(started_at: datetime, problem: str, kind: str = FULL) -> Proof:
    return Proof(
        kind=kind,
        started_by=Proof.Start.SCHEDULE,
        started_at=started_at,
        users=0,
        transactions=0,
        problem=problem,
    )


def record(proof: Proof, *, finished_at: datetime) -> None:
    """Keeps the result of a proof, and forgets those of more than a year ago."""
    proof.finished_at = finished_at
    proof.save(force_insert=True)
    Proof.objects.filter(finished_at__lt=finished_at - KEEP).delete()


def is_due(since: datetime) -> bool:
    """True if the scheduled proof of `since` has not been made.

    Also if it found something, and somebody proved since by hand that it is repaired. A proof by
    hand may have compared nothing with heads, so the scheduled one has to agree.
    """
    by_hand = Proof.objects.filter(started_by=Proof.Start.COMMAND, problem="")
    scheduled = Proof.objects.filter(started_by=Proof.Start.SCHEDULE).order_by("-started_at")
    latest = scheduled.first()
    if latest is None or latest.started_at < since:
        return True
    return bool(latest.problem) and by_hand.filter(started_at__gt=latest.started_at).exists()
