"""What stands in the way of a target that is missed, by the name of the line.

The page shows a note while its target is missed, on any server.
"""

from collections.abc import Mapping
from typing import Final

NOTES: Final[Mapping[str, str]] = {}
