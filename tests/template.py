"""Makes the template of test databases. It is migrated once, for all processes and runs.

The comment of the template has a fingerprint of the migrations, the database functions and the
models. If the code has another fingerprint, the template is made again.
"""

import hashlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import django
from django.apps import apps
from django.db import connection
from django.db.migrations.loader import MigrationLoader

ONE_AT_A_TIME: Final = 7_301_955  # an advisory lock
ROOT: Final = Path(__file__).resolve().parent.parent


def make_template(name: str, *, verbosity: int) -> None:
    """Makes the template, unless one with the fingerprint of the present code exists."""
    creation, test = connection.creation, connection.settings_dict["TEST"]
    quoted = connection.ops.quote_name(name)
    fingerprint = _fingerprint()
    with creation._nodb_cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(%s)", [ONE_AT_A_TIME])
        cursor.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [name],
        )
        if cursor.fetchone() == (fingerprint,):
            return
        cursor.execute(f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")
        before = dict(connection.settings_dict), dict(test)
        test["NAME"] = name
        try:
            creation.create_test_db(verbosity, autoclobber=True, serialize=False)
        finally:
            connection.close()
            connection.settings_dict.update(before[0])
            test.clear()
            test.update(before[1])
        cursor.execute(f"COMMENT ON DATABASE {quoted} IS '{fingerprint}'")


def _fingerprint() -> str:
    digest = hashlib.sha256(django.__version__.encode())
    for text in _sources():
        digest.update(text)
    return digest.hexdigest()


def _sources() -> Iterator[bytes]:
    loader = MigrationLoader(None)
    for key in sorted(loader.disk_migrations):
        yield repr(key).encode()
        yield Path(inspect.getfile(type(loader.disk_migrations[key]))).read_bytes()
    # Migrating creates the models' permissions.
    for model in sorted(apps.get_models(), key=lambda model: model._meta.label):
        yield repr(
            (model._meta.label, model._meta.default_permissions, model._meta.permissions)
        ).encode()
    for folder in ("billing/sql", "billing/migrations", "users/migrations"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path.read_bytes()
