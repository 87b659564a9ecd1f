"""Hashes of secrets: SHA-256.

Keys and sessions are long and random, so they cannot be guessed. A slow hash, as passwords need it,
would add no protection.
"""

import hashlib


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
