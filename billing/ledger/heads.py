"""Heads of the ledger: the last number and digest of every chain, in one signed file.

Kept where the database's owner cannot write, such a file shows whether the end of a history was cut
off or rewritten afterwards, which the rows alone cannot show. `against_heads` compares a database
with it. docs/ledger.md describes the format; a test reads it by that description alone.

Files are written and read line by line, so that a million users need little memory. For the same
reason, the signature is over the SHA-256 of everything before its line.
"""

import base64
import binascii
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Final, NamedTuple

from django.db import connection

from billing.ledger.signing import PublicKey, SigningKey
from billing.sql.guards import untrusting_cursor

FORMAT: Final = "billing-ledger-heads-1"
LONGEST_LINE: Final = 1000
ROWS_AT_ONCE: Final = 5000
FILE_MODE: Final = 0o640  # no secret; somebody else may have to copy it

# All chains as of one moment: one statement is one snapshot.
_HEADS: Final = """
    SELECT subject, id, number, digest FROM (
        SELECT NULL AS subject, u.id, coalesce(t.number, 0) AS number,
            coalesce(t.digest, '') AS digest
        FROM public.users_user u LEFT JOIN LATERAL (
            SELECT x.number, x.digest FROM public.billing_transaction x
            WHERE x.user_id = u.id ORDER BY x.number DESC LIMIT 1
        ) t ON true
        UNION ALL
        SELECT * FROM (
            SELECT DISTINCT ON (subject, subject_id) subject, subject_id, number, digest
            FROM public.billing_event ORDER BY subject, subject_id, number DESC
        ) e
    ) heads ORDER BY subject COLLATE "C" NULLS FIRST, id
"""


class UnusableHeads(Exception):
    """A heads file that cannot be trusted or read; the message is a sentence for people."""


class Head(NamedTuple):
    """The last row of a chain: of a user's transactions, or of a subject's events.

    `number` is 0 for a user without transactions.
    """

    subject: str | None  # None: transactions of the user with this ID
    id: int
    number: int
    digest: bytes

    def line(self) -> str:
        chain = ["user"] if self.subject is None else ["event", self.subject]
        return _json([*chain, self.id, self.number, self.digest.hex()])


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


# --- Writing ------------------------------------------------------------------------------------


class Draft:
    """A signed file that does not have its name yet."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self.path = path
        self.users = self.transactions = self.events = 0
        self._file = file
        self._hash = hashlib.sha256()

    def write(self, line: str) -> None:
        encoded = f"{line}\n".encode()
        self._hash.update(encoded)
        self._file.write(encoded)

    def write_heads(self, heads: Iterable[Head]) -> None:
        for head in heads:
            if head.subject is None:
                self.users += 1
                self.transactions += head.number
            else:
                self.events += head.number
            self.write(head.line())

    def sign(self, key: SigningKey) -> None:
        signature = base64.b64encode(key.sign(self._hash.digest())).decode()
        self.write(_json({"key": key.public.id, "signature": signature}))
        self._file.flush()
        os.fsync(self._file.fileno())

    def publish(self) -> None:
        """Gives the file its name. Refuses to replace another one."""
        if self.path.exists():
            raise UnusableHeads(f"There is a file {self.path} already. It was not changed.")
        os.chmod(self._file.name, FILE_MODE)
        os.replace(self._file.name, self.path)


@contextmanager
def drafted(
    path: Path, key: SigningKey, *, made_at: datetime, fully_proved_at: datetime | None = None
) -> Iterator[Draft]:
    """Writes the heads of this moment, and yields them as a draft; unpublished, it vanishes.

    `fully_proved_at` says when all rows were last proved, of a file that is published only if
    everything up to its heads is proved, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=DRAFT, delete=False) as file:
        try:
            draft = Draft(file, path)
            header = {
                "format": FORMAT,
                "made_at": _time_text(made_at),
                "fully_proved_at": fully_proved_at and _time_text(fully_proved_at),
                "key": key.public.id,
            }
            draft.write(_json(header))
            draft.write_heads(_present_heads())
            draft.sign(key)
            yield draft
        finally:
            with suppress(FileNotFoundError):  # published
                os.unlink(file.name)


def _present_heads() -> Iterator[Head]:
    with untrusting_cursor(), connection.chunked_cursor() as cursor:
        cursor.execute(_HEADS)
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            for subject, chain_id, number, digest in rows:
                yield Head(subject, chain_id, number, bytes(digest))


def _time_text(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


# --- Reading ------------------------------------------------------------------------------------


class Heads:
    """A heads file whose signature is right."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self.path = path
        self.made_at = datetime.fromisoformat(header["made_at"])
        proved = header["fully_proved_at"]
        self.fully_proved_at = None if proved is None else datetime.fromisoformat(proved)

    def __iter__(self) -> Iterator[Head]:
        """Yields users in the order of their IDs, then subjects of events."""
        with self.path.open("rb") as file:
            for line in _lines(file, self.path):
                if line.startswith(b"["):  # neither the header nor the signature
                    yield _head_of(line, self.path)

    def has_user(self, user_id: int) -> bool:
        return any(head.id == user_id and head.subject is None for head in self)

    def __str__(self) -> str:
        return f"the heads of {self.made_at:%Y-%m-%d %H:%M} UTC"


def read(path: Path, public_key: PublicKey) -> Heads:
    """Checks the signature of a file and returns it. Raises UnusableHeads."""
    content, header, last = hashlib.sha256(), b"", b""
    try:
        with path.open("rb") as file:
            for line in _lines(file, path):
                header = header or line
                content.update(last)
                last = line
    except OSError as problem:
        raise UnusableHeads(f"{path} cannot be read: {problem.strerror}.") from None
    said, signed = _object_of(header), _object_of(last)
    if said.get("format") != FORMAT:
        raise UnusableHeads(f"{path} is not a heads file of this format ({FORMAT}).")
    if set(signed) != {"key", "signature"} or not last.endswith(b"\n"):
        raise UnusableHeads(f"{path} is not complete: it does not end with a signature.")
    if signed["key"] != public_key.id:
        raise UnusableHeads(
            f"{path} was signed with another key ({signed['key']}) than {public_key.id}. If it "
            "comes from another installation, or the key was changed since, name the public key "
            "of that time with --public-key."
        )
    try:
        signature = base64.b64decode(signed["signature"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        signature = b""
    if not public_key.has_signed(content.digest(), signature):
        raise UnusableHeads(f"{path} was changed after it was signed: its signature is wrong.")
    return Heads(path, said)


def _lines(file: IO[bytes], path: Path) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise UnusableHeads(f"{path} is not a heads file: it has a line that is too long.")
        yield line


def _object_of(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _head_of(line: bytes, path: Path) -> Head:
    match json.loads(line):
        case ["user", int(chain_id), int(number), str(digest)]:
            return Head(None, chain_id, number, bytes.fromhex(digest))
        case ["event", str(subject), int(chain_id), int(number), str(digest)] if re.fullmatch(
            "[a-z_]+", subject
        ):
            return Head(subject, chain_id, number, bytes.fromhex(digest))
    raise UnusableHeads(f"{path} has a line that this version cannot read: {line!r}.")


# --- The directory of a nightly job -------------------------------------------------------------

DRAFT: Final = ".draft-"
SUFFIX: Final = ".heads"
KEEP_DAYS: Final = 30
KEEP_MONTHS: Final = 24
_NAME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ\.heads")
_NAME_FORMAT: Final = f"%Y-%m-%dT%H-%M-%SZ{SUFFIX}"


def name_at(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime(_NAME_FORMAT)


def files_in(folder: Path) -> list[Path]:
    """Returns the heads files of a directory, the newest first."""
    found = [file for file in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(file.name)]
    return sorted(found, key=lambda file: file.name, reverse=True)


def superfluous(names: Iterable[str], now: datetime) -> list[str]:
    """Returns the names of files that need not be kept.

    Kept are those of the last 30 days, and the first of each month for two years.
    """
    found: list[str] = []
    months: set[str] = set()
    for name in sorted(names):
        age = now - datetime.strptime(name, _NAME_FORMAT).replace(tzinfo=UTC)
        is_first, month = name[:7] not in months, name[:7]
        months.add(month)
        if age > timedelta(days=31 * KEEP_MONTHS) or (
            age > timedelta(days=KEEP_DAYS) and not is_first
        ):
            found.append(name)
    return found


def tidy(folder: Path, now: datetime) -> None:
    """Removes files that need not be kept, and drafts of processes that were killed."""
    for name in superfluous([file.name for file in files_in(folder)], now):
        (folder / name).unlink(missing_ok=True)
    for draft in folder.glob(f"{DRAFT}*"):
        with suppress(FileNotFoundError):
            if now.timestamp() - draft.stat().st_mtime > timedelta(days=1).total_seconds():
                draft.unlink()
