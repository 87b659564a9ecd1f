"""Notes headers that came twice, before gunicorn merges them into one.

Gunicorn hands `Idempotency-Key: a` and `Idempotency-Key: b` on as one header with the value `a,b`.
The application could not tell any more that there were two.
"""

from collections import Counter
from typing import Any, Final

# Headers that may come only once. Lists, like If-Match, may come in several lines.
SINGLE: Final = frozenset(
    {"AUTHORIZATION", "CONTENT-LENGTH", "CONTENT-TYPE", "IDEMPOTENCY-KEY", "X-REQUEST-ID"}
)
# A name with a space: no client can send it.
REPEATED: Final = "REPEATED HEADER"


def note_repeated(worker: Any, request: Any) -> None:
    """Tells the application the name of a header that came twice. Gunicorn's `pre_request`."""
    counts = Counter(name for name, _ in request.headers)
    repeated = sorted(name for name in SINGLE if counts[name] > 1)
    if repeated:
        request.headers.append((REPEATED, repeated[0]))
