"""What stands in the way of a target that is missed, by the name of the line.

The page shows a note while its target is missed, on any server.
"""

from collections.abc import Mapping
from typing import Final

CALLER: Final = (
    "Processor time of a posting, measured on 15: 428 µs in the caller and 625 µs in the server; "
    "of pgledger, prepared, 194 and 795 µs. In the caller, what the driver does not need is spent "
    "on checking the entry, JSON, counters and the model; none of these is more than a sixth."
)
SLOWER: Final = (
    "The processor did about a third of its usual work in this run; earlier the same morning"
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
    "Batch of 10,000": f"{SLOWER} it was 14,633 on 18.",
    "CSV of a user's transactions": f"{SLOWER} it was 74,285 on 18.",
    "Tab page, Python": f"{SLOWER} it was 19 ms on 18.",
    "verify_ledger, rows/s and process, one process": f"{SLOWER} it was 156,924 on 18.",
    "verify_ledger, rows/s and process, a process for each core": (
        f"{SLOWER} it was 107,641 on 18."
    ),
    "Ledger, one change, prepared, as it calls": (
        "PostgreSQL prepares each operator of a condition anew in each transaction, at about 2,700 "
        "instructions: those of `billing_post`, and those of the guards, which check the same "
        "again. About a third is the rows themselves, their foreign keys and the digest."
    ),
}
