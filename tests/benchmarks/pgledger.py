"""pgledger, https://github.com/pgr0ss/pgledger, where its SQL is at hand when the benchmark runs.

PGLEDGER_SQL is the path of its pgledger.sql. The functions that it needs are in `vendor/` beside
it, as in its repository.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from django.db import connection

VARIABLE: Final = "PGLEDGER_SQL"
MISSING: Final = f"{VARIABLE} names no pgledger.sql"

# User → the account of money from outside, and the user's own.
accounts: dict[int, tuple[str, str]] = {}


def install(user_ids: Sequence[int]) -> bool:
    """Installs it into the present database, with accounts for the users; False if not at hand."""
    accounts.clear()
    if not os.environ.get(VARIABLE):
        return False
    path = Path(os.environ[VARIABLE])
    if not path.is_file():
        raise SystemExit(f"{VARIABLE} is {path}, which is no file.")
    with connection.cursor() as cursor:
        for script in (*sorted((path.parent / "vendor").rglob("*.sql")), path):
            cursor.execute(script.read_text())
        for user in user_ids:
            cursor.execute(
                "SELECT (SELECT id FROM pgledger_create_account(%s, 'USD')),"
                "       (SELECT id FROM pgledger_create_account(%s, 'USD'))",
                [f"{user}.outside", f"{user}"],
            )
            accounts[user] = cursor.fetchone()
    return True
