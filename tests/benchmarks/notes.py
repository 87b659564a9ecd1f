"""What stands in the way of a target that is missed, by the name of the line.

The page shows a note while its target is missed, on any server.
"""

from collections.abc import Mapping
from typing import Final

NOTES: Final[Mapping[str, str]] = {
    "Ledger, one change, prepared, as it calls": (
        "PostgreSQL prepares each operator of a condition anew in each transaction, at about 2,700 "
        "instructions: those of `billing_post`, and those of the guards, which check the same "
        "again. About a third is the rows themselves, their foreign keys and the digest."
    ),
}
