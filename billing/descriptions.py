"""How long the description of a transaction may be.

`billing_post` and the constraints of transactions have the same limits.
"""

from typing import Final

DESCRIPTION_MIN_LENGTH: Final = 5
DESCRIPTION_MAX_LENGTH: Final = 200
LENGTHS: Final = f"{DESCRIPTION_MIN_LENGTH} to {DESCRIPTION_MAX_LENGTH} characters"
