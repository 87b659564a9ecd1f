"""What is kept of secrets: their SHA-256.

Keys and sessions are long and random, so nobody finds one by trying, and a slow hash, as passwords
need, would protect nothing.
"""

import hashlib


def hash_of(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
