"""Settings: each wrong value is reported in one sentence."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import NotSupportedError, connection
from procrastinate.contrib.django import utils as queue
from psycopg.conninfo import conninfo_to_dict

from config.postgresql.base import DatabaseClient, DatabaseFeatures, DatabaseWrapper
from config.postgresql.url import url_of
from tests.config.processes import PATIENCE_SECONDS, ROOT, environment, manage


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`load(NAME=value)` executes config/settings.py again with these variables."""

    def read(**variables: str) -> dict[str, Any]:
        for name, value in ({"DATA_DIR": str(tmp_path)} | variables).items():
            monkeypatch.setenv(name, value)
        return runpy.run_path(str(ROOT / "config" / "settings.py"))

    for name in ("DATABASE_URL", "ENVIRONMENT", "SECRET_KEY", "PORT", "DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return read


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "ENVIRONMENT",
            "staging",
            "ENVIRONMENT is “staging”; it must be one of local, production.",
        ),
        ("PORT", "http", "PORT is “http”; it must be a number from 1 to 65535."),
        ("PORT", "0", "PORT is “0”; it must be a number from 1 to 65535."),
        ("PORT", "65536", "PORT is “65536”; it must be a number from 1 to 65535."),
        ("DEBUG", "maybe", "DEBUG is “maybe”; it must be one of true, false, "),
        (
            "TIME_ZONE",
            "Europe/Atlantis",
            "TIME_ZONE is “Europe/Atlantis”, which is not a known time",
        ),
        ("BILLING_CURRENCY", "euro", "BILLING_CURRENCY is “euro”; it must be an ISO 4217 code"),
        ("BILLING_CURRENCY", "ÄÖÜ", "BILLING_CURRENCY is “ÄÖÜ”; it must be an ISO 4217 code"),
        ("BILLING_CURRENCY", "EUS", "BILLING_CURRENCY is “EUS”; it must be an ISO 4217 code"),
        ("BILLING_CURRENCY", "ZZZ", "BILLING_CURRENCY is “ZZZ”; it must be an ISO 4217 code"),
        ("BILLING_CURRENCY", "XAU", "BILLING_CURRENCY is “XAU”; it must be an ISO 4217 code"),
        ("LEDGER_SIGNING_KEY", "secret", "LEDGER_SIGNING_KEY is too short; it must be a long"),
        (
            "LEDGER_PROOF_PROCESSES",
            "0",
            "LEDGER_PROOF_PROCESSES is “0”; it must be a number from 1 to 64.",
        ),
        ("LOG_LEVEL", "loud", "LOG_LEVEL is “loud”; it must be one of DEBUG, "),
        ("DATABASE_URL", "billing", "DATABASE_URL must look like postgres://user:password@host"),
        ("DATABASE_URL", "mysql://a:b@c/d", "DATABASE_URL must look like postgres://"),
        ("DATABASE_URL", "postgres://a:b@c:port/d", "DATABASE_URL must look like postgres://"),
        ("DATABASE_URL", "postgres://a:b@c", "DATABASE_URL must look like postgres://"),
        ("DATA_DIR", "/dev/null/var", "DATA_DIR (/dev/null/var) cannot be used: Not a directory."),
    ],
)
def test_a_wrong_value_is_refused_by_name(load: Any, name: str, value: str, sentence: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refusal:
        load(**{name: value})
    assert str(refusal.value).startswith(sentence)


def test_a_variable_set_to_nothing_counts_as_not_set(load: Any, tmp_path: Path) -> None:
    names = ("PORT", "TIME_ZONE", "BILLING_CURRENCY", "ENVIRONMENT", "DATABASE_URL", "DEBUG")
    settings = load(**dict.fromkeys(names, ""))
    assert settings["PORT"] == 8000
    assert settings["DATABASES"]["default"]["ENGINE"] == "config.embedded"
    assert settings["DATABASES"]["default"]["DATA_DIR"] == tmp_path


def test_the_local_secret_key_is_made_once_and_private(load: Any, tmp_path: Path) -> None:
    first, second = load(), load()
    assert first["SECRET_KEY"] == second["SECRET_KEY"]
    assert len(first["SECRET_KEY"]) > 50
    assert (tmp_path / "secret_key").stat().st_mode & 0o077 == 0
    assert [file.name for file in tmp_path.iterdir()] == ["secret_key"]


def test_a_secret_key_that_looks_like_a_variable_is_taken_as_it_is(load: Any) -> None:
    assert load(SECRET_KEY="$PATH")["SECRET_KEY"] == "$PATH"


def test_production_asks_for_a_secret_key(load: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^SECRET_KEY is not set"):
        load(ENVIRONMENT="production")


def test_production_speaks_https_and_compresses_static_files(load: Any) -> None:
    settings = load(ENVIRONMENT="production", SECRET_KEY="x" * 50)
    assert settings["SECURE_SSL_REDIRECT"] is True
    assert settings["SESSION_COOKIE_SECURE"] is True
    assert settings["CSRF_COOKIE_SECURE"] is True
    assert "Manifest" in settings["STORAGES"]["staticfiles"]["BACKEND"]


def test_gunicorn_without_a_secret_key_ends_with_one_sentence(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gunicorn", "config.wsgi", "--bind", f"unix:{tmp_path}/socket"],
        env=environment(DATA_DIR=str(tmp_path)),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.returncode != 0
    assert "Error: SECRET_KEY is not set; in production it must be" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_web_process_has_loaded_all_pages_before_its_first_request(tmp_path: Path) -> None:
    loads = "import sys, config.wsgi; print('billing.api.rest' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", loads],
        env=environment(
            DATA_DIR=str(tmp_path), SECRET_KEY="x" * 50, DATABASE_URL="postgres://localhost/none"
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgres://us%40er:p%25+w@%2Frun%2Fthe%20socket:5433/the%20name",
        "postgres://us%40er:p%25+w@/the%20name?host=/run/the%20socket&port=5433",
        "postgresql:///the%20name?user=us%40er&password=p%25+w&host=%2Frun/the%20socket&port=5433",
    ],
)
def test_an_address_means_the_same_to_everybody(
    load: Any, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For pages and commands, `dbshell`, the workers' queue, and libpq's own programs."""
    place = {
        "user": "us@er",
        "password": "p%+w",
        "host": "/run/the socket",
        "port": "5433",
        "dbname": "the name",
    }
    assert conninfo_to_dict(url) == place
    database = load(DATABASE_URL=url)["DATABASES"]["default"]
    wrapper = DatabaseWrapper({"TIME_ZONE": None, "TEST": {}} | database, alias="default")
    parameters = wrapper.get_connection_params()
    assert place.items() <= parameters.items()
    monkeypatch.setattr(queue, "connections", {"default": wrapper})
    assert place.items() <= queue.connector_params().items()
    assert place.items() <= conninfo_to_dict(url_of(parameters)).items()

    command, variables = DatabaseClient.settings_to_cmd_args_env(wrapper.settings_dict, ["-At"])
    assert command[:2] == ["psql", "-At"]
    asked = conninfo_to_dict(command[-1])
    assert variables == {"PGPASSWORD": place["password"]}
    assert {name: asked.get(name) for name in place} == place | {"password": None}


def test_options_of_an_address_come_before_the_panels_own(load: Any) -> None:
    url = (
        "postgres://billing@127.0.0.1/billing?connect_timeout=3&sslmode=require&tcp_user_timeout=9"
        "&options=-c%20lock_timeout%3D7s&isolation_level=2&conn_max_age=0"
    )
    options = load(DATABASE_URL=url)["DATABASES"]["default"]["OPTIONS"]
    assert options["sslmode"] == "require"
    assert options["isolation_level"] == 2
    assert (options["connect_timeout"], options["tcp_user_timeout"]) == ("3", "9")
    assert options["keepalives_idle"] == 30


def test_dbshell_reaches_the_server_that_the_panel_uses(db: None, tmp_path: Path) -> None:
    """Also if the address names the server only after the question mark."""
    place = connection.get_connection_params()
    host = quote(place["host"] if place["host"] != "localhost" else "127.0.0.1", safe="")
    url = f"postgres://{place['user']}@/{place['dbname']}?host={host}"
    url += f"&port={place['port']}" if place.get("port") else ""
    asked = manage(
        *("dbshell", "--", "-Atc", "SHOW port"), DATABASE_URL=url, DATA_DIR=str(tmp_path)
    )
    with connection.cursor() as cursor:
        cursor.execute("SHOW port")
        assert asked.stdout.strip() == cursor.fetchone()[0], asked.stderr


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "postgres://billing:secret@127.0.0.1:1/billing",
            'Error: the database cannot be reached: connection to server at "127.0.0.1", port 1 '
            "failed: Connection refused",
        ),
        (
            "postgres://billing:secret@nowhere.invalid/billing",
            "Error: the database cannot be reached: failed to resolve host 'nowhere.invalid': ",
        ),
    ],
)
def test_a_database_out_of_reach_is_one_sentence(tmp_path: Path, url: str, sentence: str) -> None:
    ended = manage("migrate", DATA_DIR=str(tmp_path), DATABASE_URL=url)
    assert ended.returncode == 1
    assert ended.stderr.startswith(sentence)
    assert len(ended.stderr.splitlines()) == 1
    assert "secret" not in ended.stderr


def test_postgresql_15_is_the_oldest(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(connection.features, DatabaseFeatures)
    assert DatabaseFeatures.minimum_database_version == (15,)
    monkeypatch.setattr(DatabaseFeatures, "minimum_database_version", (99,))
    with pytest.raises(NotSupportedError, match=r"^PostgreSQL 99 or later is required \(found "):
        connection.check_database_version_supported()


@pytest.mark.parametrize(
    "name", ["billing", "/bil ling", "/a/../b", "//x", "/a?b", "/admin", "/v2/x"]
)
def test_a_prefix_that_is_none_is_refused(load: Any, name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"^SCRIPT_NAME is"):
        load(SCRIPT_NAME=name)


@pytest.mark.parametrize(
    ("name", "path"), [("", "/"), ("/billing/", "/billing/"), ("/a/b", "/a/b/")]
)
def test_cookies_are_kept_to_the_prefix(load: Any, name: str, path: str) -> None:
    settings = load(SCRIPT_NAME=name)
    assert settings["SESSION_COOKIE_PATH"] == settings["CSRF_COOKIE_PATH"] == path
