"""Headers that came twice, as gunicorn has them before it makes one of them.

A web server hands `Idempotency-Key: a` and `Idempotency-Key: b` on as one header with the value
`a,b`, and nobody can tell any more that there were two.
"""

from collections import Counter
from typing import Any, Final

# Lists, like If-Match, may come in several lines.
SINGLE: Final = frozenset(
    {"AUTHORIZATION", "CONTENT-LENGTH", "CONTENT-TYPE", "IDEMPOTENCY-KEY", "X-REQUEST-ID"}
)
# With a space: no client can send it.
REPEATED: Final = "REPEATED HEADER"


def note_repeated(worker: Any, request: Any) -> None:
    """gunicorn's `pre_request`: names a header that came twice to the application."""
    counts = Counter(name for name, _ in request.headers)
    repeated = sorted(name for name in SINGLE if counts[name] > 1)
    if repeated:
        request.headers.append((REPEATED, repeated[0]))
