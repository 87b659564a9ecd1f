"""What stands in the way of a target that is missed, by the name of the line.

The page shows a note while its target is missed, on any server.
"""

from collections.abc import Mapping
from typing import Final

CALLER: Final = (
    "Of 428 µs of the caller's processor time per posting, measured on 15, 190 µs are left when "
    "the driver alone calls. The others check the entry, write JSON, count, and make the model; "
    "none of these has more than a sixth. The server's part is 625 µs, and pgledger's 795 µs."
)
NOISE: Final = (
    "The processor did about a third of its usual work in this run, and a plain loop took 90 ms; "
    "earlier the same morning, at its usual pace,"
)
NOTES: Final[Mapping[str, str]] = {
    "Single change, against pgledger": CALLER,
    "20 connections on 50 users, of the bare floor": (
        "Twenty connections keep all cores busy, so this compares the processor time of caller and "
        "server together: that of a posting is 1.8 times that of the floor. " + CALLER
    ),
    "Balance changes over HTTP, 8 callers, of the ledger's single rate": (
        "Almost three quarters of a call's processor time are the web process's: gunicorn's, "
        "Django's, Ninja's and ours, spread over hundreds of functions, none with more than 6 %."
    ),
    "Batch of 10,000": f"{NOISE} it was 14,633 on 18.",
    "CSV of a user's transactions": f"{NOISE} it was 74,285 on 18.",
    "Tab page, Python": f"{NOISE} it was 19 ms on 18.",
    "verify_ledger, rows/s and process, one process": f"{NOISE} it was 156,924 on 18.",
    "verify_ledger, rows/s and process, a process for each core": (
        f"{NOISE} it was 107,641 on 18."
    ),
    "Ledger, one change, prepared, as it calls": (
        "PostgreSQL prepares each operator of a condition anew in each transaction, at about 2,700 "
        "instructions: those of `billing_post`, and those of the guards, which check the same "
        "again. About a third is the rows themselves, their foreign keys and the digest."
    ),
}
