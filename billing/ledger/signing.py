"""The key that signs the heads of the ledger (`billing.ledger.heads`): Ed25519.

It is the SHA-256 of a long random text: of the setting LEDGER_SIGNING_KEY or, by default, of a text
that is made once and kept in DATA_DIR. The public key is written in base64 on one line
(SubjectPublicKeyInfo, as in the middle of a PEM file).
"""

import base64
import binascii
import hashlib
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.conf import settings

# What comes before the 32 bytes of a public key in DER.
PREFIX: Final = bytes.fromhex("302a300506032b6570032100")
KEY_BYTES: Final = 32


class UnusableKey(Exception):
    """A key that cannot be read; the message is a sentence for people."""


class PublicKey:
    """Checks signatures. `id` is the beginning of the SHA-256 of the key's 32 bytes."""

    def __init__(self, raw: bytes) -> None:
        self.id = hashlib.sha256(raw).hexdigest()[:16]
        self._raw = raw

    @classmethod
    def of_text(cls, text: str) -> "PublicKey":
        """Reads a key as `str` writes it, or as a PEM file. Raises UnusableKey."""
        lines = [line.strip() for line in text.strip().splitlines()]
        body = "".join(line for line in lines if not line.startswith("-----"))
        try:
            der = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            der = b""
        if not der.startswith(PREFIX) or len(der) != len(PREFIX) + KEY_BYTES:
            raise UnusableKey(
                "This is not a public key. It is the line that manage.py ledger_heads "
                "--public-key prints where the heads were written."
            )
        return cls(der.removeprefix(PREFIX))

    def __str__(self) -> str:
        return base64.b64encode(PREFIX + self._raw).decode()

    def has_signed(self, content: bytes, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self._raw).verify(signature, content)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    def __init__(self, text: str) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(text.encode()).digest())
        self.public = PublicKey(self._key.public_key().public_bytes_raw())

    def sign(self, content: bytes) -> bytes:
        return self._key.sign(content)


def own_key() -> SigningKey:
    """Returns the installation's key; makes it if there is none. Raises UnusableKey."""
    if settings.LEDGER_SIGNING_KEY:
        return SigningKey(settings.LEDGER_SIGNING_KEY)
    path: Path = settings.LEDGER_SIGNING_KEY_FILE
    try:
        if not path.exists():
            _make(path)
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", "it is not a text")
        raise UnusableKey(
            f"The key that signs heads ({path}) cannot be used: {reason}. Set "
            "LEDGER_SIGNING_KEY, or let the panel write DATA_DIR."
        ) from None
    if not text:
        raise UnusableKey(f"{path} is empty. Restore it from a backup, or remove it.")
    return SigningKey(text)


def _make(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Readable by its owner alone, as all temporary files.
    with NamedTemporaryFile("w", dir=path.parent, prefix=f"{path.name}-") as draft:
        draft.write(secrets.token_urlsafe(50))
        draft.flush()
        os.fsync(draft.fileno())
        # A hard link appears with all of its text, and the first of several processes wins.
        with suppress(FileExistsError):
            path.hardlink_to(draft.name)
