"""The current text of every database function and trigger of `billing`, one file each.

Also finds how a database differs from them. Migrations install snapshots of these files
(`billing/migrations/sql/`), which never change. To change a function, change its file here and add
a migration with a copy. A test checks that a migrated database has exactly these texts. They have
the form that PostgreSQL returns (`pg_get_functiondef`, `pg_get_triggerdef`), so that comparing
needs no parser. The comment at the top is not part of them.

What each is for, and what breaks without it: docs/ledger.md. The functions of `users` (search text,
identity of e-mail addresses) are in `users/migrations/sql/`.
"""

from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

from django.db import connection

FOLDER: Final = Path(__file__).parent
PREFIX: Final = "billing_"  # of our functions' names

# In all schemas: one in pg_catalog would be called instead of ours.
_FUNCTIONS: Final = r"""
    SELECT p.proname, pg_get_functiondef(p.oid), NULL
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE starts_with(p.proname, %(prefix)s) AND p.prokind = 'f' AND n.nspname !~ '^pg_temp'
    ORDER BY 1, 2
"""
# Triggers that call our functions, and all others on our tables that have one of these. (Triggers
# of users_user that belong to `users` are not included.)
_TRIGGERS: Final = """
    SELECT t.tgname, pg_get_triggerdef(t.oid), t.tgenabled::text
    FROM pg_trigger t JOIN pg_proc f ON f.oid = t.tgfoid JOIN pg_class c ON c.oid = t.tgrelid
    WHERE NOT t.tgisinternal AND (
        starts_with(f.proname, %(prefix)s) OR starts_with(c.relname, %(prefix)s) AND c.oid IN (
            SELECT o.tgrelid FROM pg_trigger o JOIN pg_proc p ON p.oid = o.tgfoid
            WHERE starts_with(p.proname, %(prefix)s)
        )
    ) ORDER BY 1, 2
"""
ARMED: Final = (
    "O",
    "A",
)  # pg_trigger.tgenabled: fires unless the session is a replica; fires always


class Installed(NamedTuple):
    """A function or trigger in a database."""

    name: str
    text: str
    is_armed: bool


def functions() -> dict[str, str]:
    """Returns the current text of each function, by name."""
    return dict(_read("functions"))


def triggers() -> dict[str, str]:
    """Returns the current text of each trigger, by its name in the database."""
    return {text.split(" TRIGGER ", 1)[1].split(" ", 1)[0]: text for _, text in _read("triggers")}


@cache
def _read(folder: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (file.stem, _bare(file.read_text())) for file in sorted((FOLDER / folder).glob("*.sql"))
    )


def _bare(text: str) -> str:
    """Returns a text without its comment at the top, semicolon and insignificant line breaks."""
    lines = text.split("\n")
    while lines[0].startswith("--"):
        del lines[0]
    bare = "\n".join(lines).rstrip().removesuffix(";")
    return bare if "AS $function$" in bare else " ".join(bare.split())


def installed_functions() -> list[Installed]:
    return _installed(_FUNCTIONS)


def installed_triggers() -> list[Installed]:
    return _installed(_TRIGGERS)


def _installed(query: str) -> list[Installed]:
    with connection.cursor() as cursor:
        # Names are qualified with schemas that are not in the search path.
        cursor.execute("SELECT current_setting('search_path')")
        [usual] = cursor.fetchone()
        cursor.execute("SELECT set_config('search_path', 'pg_catalog, pg_temp', false)")
        try:
            cursor.execute(query, {"prefix": PREFIX})
            found = cursor.fetchall()
        finally:
            cursor.execute("SELECT set_config('search_path', %s, false)", [usual])
    return [
        Installed(name, text.rstrip(), enabled is None or enabled in ARMED)
        for name, text, enabled in found
    ]


def differences() -> list[str]:
    """Returns a sentence for each function and trigger that differs from its file."""
    return [
        *_differences("function", functions(), installed_functions()),
        *_differences("trigger", triggers(), installed_triggers()),
    ]


def _differences(kind: str, current: dict[str, str], installed: list[Installed]) -> list[str]:
    names = {each.name for each in installed}
    found = [f"The {kind} {name} is missing." for name in current if name not in names]
    for each in installed:
        if each.name not in current:
            found.append(f"The {kind} {each.name} does not belong to the panel.")
        elif each.text != current[each.name]:
            found.append(f"The {kind} {each.name} does not have its current text.")
        if not each.is_armed:
            found.append(f"The {kind} {each.name} is disarmed.")
    return found
