"""Fixtures for all tests. The database is always a real PostgreSQL, as in production.

A test uses it in one of two ways:

- `db` (pytest-django's) runs the test in a transaction that is rolled back. The checks that the
  ledger makes at commit run when the test ends, so a test that leaves the ledger wrong fails.
- `committed_db` really commits. It is for tests that need several connections: races, locks, and
  the panel in a browser (`live_panel`).
"""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import pytest
from django.conf import settings
from django.db import connection, transaction
from django.db import connections as connections_of_django
from django.test.utils import override_settings, setup_databases, teardown_databases
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from procrastinate.contrib.django import app, connector_params
from procrastinate.psycopg_connector import PsycopgConnector
from pytest_django.live_server_helper import LiveServer
from pytest_django.plugin import DjangoDbBlocker

from tests import roles
from tests.factories import OperatorFactory, UserFactory
from tests.template import make_template
from users.models import User

# No deadline, because examples wait for the database. No database of failing examples, because only
# this machine would try them again. Instead, a failure prints how to reproduce it.
hypothesis_settings.register_profile(
    "tests",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
hypothesis_settings.load_profile("tests")

THREADS_MAX_SECONDS = 300


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--as-panel",
        action="store_true",
        help="connect as the role that grant_roles sets up, except in tests marked as_owner",
    )


@pytest.hookimpl(trylast=True)  # after pytest-randomly has shuffled them
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts browser tests first: some take long, and the run would wait for one that starts last."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


@pytest.fixture(scope="session", autouse=True)
def settings_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Serves static files from the source directories, hashes passwords fast, keeps DATA_DIR."""
    data_dir = tmp_path_factory.mktemp("data")
    with override_settings(
        LEDGER_SIGNING_KEY="",
        LEDGER_SIGNING_KEY_FILE=data_dir / "ledger_signing_key",
        LEDGER_HEADS_DIR=data_dir / "heads",
        STORAGES={
            "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
            "staticfiles": {
                "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage",
            },
        },
        WHITENOISE_AUTOREFRESH=True,  # so that WhiteNoise needs no STATIC_ROOT when it starts
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    ):
        yield


# --- The database, with real commits ------------------------------------------------------------


@pytest.fixture(scope="session")
def django_db_setup(  # noqa: PLR0917 - pytest passes fixtures by name
    request: pytest.FixtureRequest,
    django_test_environment: None,
    django_db_modify_db_settings: None,
    django_db_keepdb: bool,
    django_db_createdb: bool,
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[None]:
    """Makes the test database for the first fixture that needs it.

    pytest-django's own fixture makes it only if a test is marked `django_db` or uses `db`. A test
    that uses the database by another fixture would then run on the real database.
    """
    verbosity = request.config.option.verbose
    keep = django_db_keepdb and not django_db_createdb
    with django_db_blocker.unblock():
        if not keep:
            template = f"test_{connection.settings_dict['NAME']}_template"
            make_template(template, verbosity=verbosity)
            connection.settings_dict["TEST"]["TEMPLATE"] = template
        made = setup_databases(
            verbosity=verbosity, interactive=False, keepdb=keep, serialized_aliases=()
        )
        if request.config.getoption("as_panel"):
            roles.set_up_panel()
    yield
    if django_db_keepdb:
        return
    with django_db_blocker.unblock():
        with connection.cursor() as cursor:  # servers of browser tests may still be connected
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        teardown_databases(made, verbosity=verbosity)


@pytest.fixture(autouse=True)
def role_of_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--as-panel`, connects the test as the panel's role."""
    if (
        not request.config.getoption("as_panel")
        or not _uses_database(request)
        or request.node.get_closest_marker("as_owner")
    ):
        yield
        return
    request.getfixturevalue("django_db_setup")
    blocker: DjangoDbBlocker = request.getfixturevalue("django_db_blocker")
    with blocker.unblock():
        panel = roles.as_panel()
        panel.__enter__()
    yield
    with blocker.unblock():
        panel.__exit__(None, None, None)


def _uses_database(request: pytest.FixtureRequest) -> bool:
    asked = {"db", "committed_db"} & set(request.fixturenames)
    return bool(asked or request.node.get_closest_marker("django_db"))


@pytest.fixture(scope="session")
def tables_for_tests(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Sequence[str]:
    """Returns the tables that migrations leave empty. All rows in them come from tests."""
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        empty = []
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT EXISTS (SELECT FROM {connection.ops.quote_name(table)})")
            if not cursor.fetchone()[0]:
                empty.append(table)
        connection.close()
    return empty


@pytest.fixture
def committed_db(
    request: pytest.FixtureRequest,
    tables_for_tests: Sequence[str],
    django_db_blocker: DjangoDbBlocker,
) -> Iterator[None]:
    """Lets a test commit, on any number of connections. Empties the tables afterwards."""
    if "db" in request.fixturenames or request.node.get_closest_marker("django_db"):
        raise pytest.UsageError(
            f"{request.node.nodeid} uses both committed_db and a test transaction (db or "
            "django_db), so nothing would be committed. Use one of them."
        )
    with django_db_blocker.unblock():
        assert_test_database()
        yield
        connection.close()  # ends a transaction that the test has left open
        empty(tables_for_tests)
        # Otherwise the next worker would find that all transactions were removed.
        shutil.rmtree(settings.LEDGER_HEADS_DIR, ignore_errors=True)
        connection.close()


def assert_test_database() -> None:
    name = connection.settings_dict["NAME"]
    assert name.startswith("test_"), f"{name} is not the test database; nothing was done to it."


def empty(tables: Sequence[str]) -> None:
    """Empties the tables, also those with guards.

    Transactions are append-only, so the guards refuse the flush of Django's TransactionTestCase
    like every other TRUNCATE. This disables the guards within one transaction, which only the owner
    of the tables can do. (`session_replication_role` would do the same, but needs a superuser, and
    the database of DATABASE_URL may not have one.)
    """
    assert_test_database()
    with roles.as_owner():
        _empty(tables)


def _empty(tables: Sequence[str]) -> None:
    quoted = [connection.ops.quote_name(table) for table in tables]
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '30s'")  # fails if a test left a transaction open
        for table in quoted:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(f"TRUNCATE {', '.join(quoted)}")
        for table in quoted:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")


class Outcome(NamedTuple):
    """The result of one call in a thread, or the exception that it raised."""

    result: Any
    error: BaseException | None


class Connections(Protocol):
    def __call__(self, count: int, work: Callable[[int], Any]) -> list[Outcome]: ...


@pytest.fixture
def connections(committed_db: None) -> Connections:
    """`connections(20, work)` calls work(0) to work(19) at the same moment.

    Each call has its own thread and database connection. The outcomes are returned in order.
    """

    def run(count: int, work: Callable[[int], Any]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        start = threading.Barrier(count)

        def call(place: int) -> None:
            try:
                connection.ensure_connection()
                start.wait(timeout=THREADS_MAX_SECONDS)
                outcomes[place] = Outcome(work(place), None)
            except BaseException as error:
                outcomes[place] = Outcome(None, error)
            finally:
                connection.close()

        threads = [threading.Thread(target=call, args=[i], daemon=True) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=THREADS_MAX_SECONDS)
        stuck = [place for place in range(count) if place not in outcomes]
        assert not stuck, f"still running after {THREADS_MAX_SECONDS} seconds: {stuck}"
        return [outcomes[place] for place in range(count)]

    return run


@pytest.fixture
def live_panel(committed_db: None) -> Iterator[LiveServer]:
    """The panel on a port of this machine, at `live_panel.url`. It sees what the test commits."""
    server = LiveServer("127.0.0.1")
    try:
        yield server
    finally:
        server.stop()


# --- People -------------------------------------------------------------------------------------
# These use `committed_db` if the test really commits, and `db` otherwise.


@pytest.fixture
def user(request: pytest.FixtureRequest) -> User:
    """A customer without money."""
    _any_database(request)
    return UserFactory()


@pytest.fixture
def operator(request: pytest.FixtureRequest) -> User:
    """An operator without permissions."""
    _any_database(request)
    return OperatorFactory()


def _any_database(request: pytest.FixtureRequest) -> None:
    """Sets up `committed_db` if the test uses a fixture that really commits, otherwise `db`."""
    committed = {"committed_db", "connections", "live_panel"} & set(request.fixturenames)
    request.getfixturevalue("committed_db" if committed else "db")


@pytest.fixture
def work(committed_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Returns a function that does waiting jobs as a worker does, until no job waits."""
    # Otherwise connections would outlive the threads that made them.
    monkeypatch.setitem(connections_of_django.settings["default"], "CONN_MAX_AGE", 0)

    async def until_idle() -> None:
        with app.replace_connector(PsycopgConnector(kwargs=connector_params(), min_size=1)):
            async with app.open_async():
                await app.run_worker_async(
                    wait=False,
                    concurrency=1,  # with more, it stops fetching while a job runs
                    listen_notify=False,
                    install_signal_handlers=False,
                )

    def work() -> None:
        # In another thread, because Playwright may keep an event loop in this one.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(until_idle())).result()

    yield work
    connection.close()
