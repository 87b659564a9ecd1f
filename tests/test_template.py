"""Test databases are copies of a template that is migrated once."""

from django.db import connection
from pytest_django.plugin import DjangoDbBlocker

from tests import template


def test_a_template_of_the_present_code_is_kept(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> None:
    def oid(name: str) -> int:
        with connection.cursor() as cursor:
            cursor.execute("SELECT oid FROM pg_database WHERE datname = %s", [name])
            [found] = cursor.fetchone()
            return int(found)

    with django_db_blocker.unblock():
        before = {key: value for key, value in connection.settings_dict.items() if key != "TEST"}
        name = connection.settings_dict["TEST"].get("TEMPLATE") or f"{before['NAME']}_template"
        template.make_template(name, verbosity=0)
        known = oid(name)
        template.make_template(name, verbosity=0)
        assert oid(name) == known
        after = {key: value for key, value in connection.settings_dict.items() if key != "TEST"}
        assert after == before
        connection.close()
