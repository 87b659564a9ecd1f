"""`make installation`: sets the panel up on a bare Debian, as docs/deployment.md says, and uses it.

It runs the commands of the document. It needs root, debootstrap and, to run systemd there,
systemd-nspawn; with --here it needs only root.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.installation import units
from tests.installation.containers import try_containers
from tests.installation.panel import Browser, plain
from tests.installation.roots import (
    Booted,
    CopyOfThisMachine,
    Machine,
    Root,
    say,
    settings_of,
    wait_for,
)

PROJECT: Final = Path(__file__).resolve().parents[2]
PLACE: Final = "/opt/billing-panel"
HOST: Final = "panel.example.com"
OPERATOR: Final = {
    "DJANGO_SUPERUSER_EMAIL": "first@example.com",
    "DJANGO_SUPERUSER_PASSWORD": "correct horse battery staple",
}
WHEELS: Final = "/srv/wheels"
FROM_WHEELS: Final = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": WHEELS}
# Directories that a running machine writes to.
RUNNING: Final = (
    *("/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp"),  # noqa: S108
    *("/var/lib/postgresql", "/var/lib/systemd", "/var/log"),
)
EXPOSURE_MAX: Final = 2.5  # on the scale of systemd-analyze, from 0 to 10


@contextmanager
def step(name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    say(f"{name}: {time.monotonic() - started:.0f} seconds")


def commands_of_the_document(name: str) -> list[str]:
    """Returns the commands of the block in docs/deployment.md below a comment with this name."""
    text = (PROJECT / "docs" / "deployment.md").read_text()
    blocks = re.findall(rf"^<!-- {name} -->\n```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"docs/deployment.md has no block “{name}”"
    return [line.partition("  #")[0].rstrip() for line in blocks[0].splitlines()]


def prepare(root: Root, suite: str, python: Path | None, *, with_systemd: bool) -> None:
    with step(root.called(suite)):
        root.make(suite)
    [packages] = commands_of_the_document(f"packages {suite}")
    assert packages.startswith("apt-get install ")
    with step("packages"):
        # The first packages are on every server, but not in a bare root. The document names the
        # others.
        root.install(
            *(["systemd", "systemd-sysv", "dbus"] if with_systemd else []),
            *packages.removeprefix("apt-get install ").split(),
        )
        root.trust_what_this_machine_trusts()
    with step("checkout and wheels"):
        if python is not None:
            bring_python(root, python)
        copy_checkout(root.path / PLACE.lstrip("/"))
        wheels = root.path / WHEELS.lstrip("/")
        wheels.mkdir(parents=True)
        # Downloaded now, because the machine will have no network.
        download = (
            f"cd {PLACE} && $(sh .ci/find-python) -m venv /srv/pip && "
            f"/srv/pip/bin/pip download --quiet --dest {WHEELS} "
            "--require-hashes --requirement requirements/production.txt; "
            "status=$?; rm -rf /srv/pip; exit $status"
        )
        root.run("sh", "-c", download, PIP_CERT="/etc/ssl/certs/ca-certificates.crt")


def bring_python(root: Root, folder: Path) -> None:
    root.bring(folder, "opt/python3")
    # Python may have been built to look for its library in its old directory.
    (root.path / "etc/ld.so.conf.d/python.conf").write_text("/opt/python3/lib\n")
    root.run("ldconfig")


def copy_checkout(place: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        source, target = PROJECT / name, place / name
        if source.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


# --- Checks -------------------------------------------------------------------------------------


def install(machine: Machine, *arguments: str, says: str, status: int = 0) -> str:
    """Runs deploy/install and returns its output.

    Asserts that it ends with `status`, and that `says` is part of the output.
    """
    ended, output = machine.run(f"{PLACE}/deploy/install", *arguments, **FROM_WHEELS)
    assert ended == status, f"it ended with {ended}:\n{output}"
    assert says in output, output
    return output


def start_what_has_no_systemd(machine: Machine) -> None:
    """Starts the panel, a worker and nginx, as systemd would."""
    for unit in ("billing-panel.service", "billing-worker@.service"):
        units.start(machine, unit)
    machine.do("nginx")


def start_postgresql(machine: Machine) -> None:
    output = machine.run(f"{PLACE}/deploy/install", "--check")[1]
    [command] = re.findall(r"Start it: (pg_ctlcluster \d+ main start)\.", output)
    machine.do(*command.split())


def it_says_what_is_missing(machine: Machine) -> None:
    install(machine, "--check", says="missing  account billing-panel", status=1)
    install(machine, says="give the host name of the panel", status=1)
    install(machine, "--host", HOST, says="give the currency of the balances", status=1)
    install(machine, "--host", "a b", "--currency", "EUR", says="is no host name", status=1)
    install(machine, "--host", HOST, "--currency", "euro", says="is no currency", status=1)
    assert not (machine.root.path / "etc/billing-panel.env").exists()


def it_is_set_up(machine: Machine) -> None:
    [command] = commands_of_the_document("install")
    output = machine.do("sh", "-c", command, **FROM_WHEELS)
    assert "Now make the first operator" in output, output
    assert ("systemd is not running here" in output) is not machine.has_systemd, output
    settings = machine.root.path / "etc/billing-panel.env"
    assert f"{settings.stat().st_mode:o}" == "100640"
    assert settings.stat().st_uid == 0
    assert len(settings_of(settings)["SECRET_KEY"]) > 50


def again_it_changes_nothing(machine: Machine) -> None:
    # What the panel and its worker write meanwhile: the worker proves the ledger when it starts.
    written = ("static", "metrics", "heads", "ledger_signing_key")
    without = (*RUNNING, *(f"/var/lib/billing-panel/{name}" for name in written))
    before = machine.root.snapshot(without=without)
    output = install(machine, says="nothing new")
    after = machine.root.snapshot(without=without)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert not changed, sorted(changed)
    for sentence in ("the database billing exists", "the units are not changed"):
        assert sentence in output, output


def an_operator_logs_in_over_https(machine: Machine) -> None:
    machine.do("billing-panel", "createsuperuser", "--noinput", **OPERATOR)
    certificate = machine.root.path / "etc/nginx/billing-panel/certificate.pem"
    for port in (443, 8443):  # 8443 as if a router forwarded it to 443
        browser = Browser(HOST, certificate, port)
        login = browser.post(
            "/admin/login/?next=/admin/",
            username=OPERATOR["DJANGO_SUPERUSER_EMAIL"],
            password=OPERATOR["DJANGO_SUPERUSER_PASSWORD"],
        )
        assert (login.status, login.headers.get("location")) == (302, "/admin/"), login.text
        page = browser.get("/admin/")
        assert page.status == 200, page.text
        assert page.headers["strict-transport-security"]
        static = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text)
        assert len(static) > 5
        for address in static:
            file = browser.get(address, Accept_Encoding="br")
            assert file.status == 200, address
            assert "immutable" in file.headers["cache-control"], address
            if address.endswith((".css", ".js")) and len(file.body) > 1000:
                assert file.headers["content-encoding"] == "br", address
    sent_on = plain("/admin/?a=b", HOST)
    assert (sent_on.status, sent_on.headers["location"]) == (301, f"https://{HOST}/admin/?a=b")


def it_is_ready_and_a_worker_works(machine: Machine) -> None:
    browser = Browser(HOST, machine.root.path / "etc/nginx/billing-panel/certificate.pem")
    wait_for("a heartbeat", lambda: browser.readiness()["checks"]["worker"]["ok"])
    report = browser.readiness()
    assert (report["status"], report["problems"], report["warnings"]) == ("ok", [], []), report
    install(machine, "--check", says="Nothing is missing")
    # This machine may read the metrics, if it does not ask through the proxy.
    metrics = plain("/metrics", HOST, 8000)
    assert "billing_worker_heartbeat_age_seconds" in metrics.text


def logins_of_one_address_are_limited(machine: Machine) -> None:
    browser = Browser(HOST, machine.root.path / "etc/nginx/billing-panel/certificate.pem")
    found = [browser.ask("POST", "/v2/panel/account/auth", "{}").status for _ in range(40)]
    assert found[0] != 429
    assert found[-1] == 429, found
    refused = browser.ask("POST", "/v2/panel/account/auth", "{}")
    assert '"code": 15' in refused.text, refused.text
    log = (machine.root.path / "var/log/nginx/billing-panel.access.log").read_text()
    assert '"POST /v2/panel/account/auth" 429 ' in log
    assert "?" not in log.replace("Mozilla", "")


def cron_does_the_work_of_workers(machine: Machine) -> None:
    [line] = [
        line
        for line in (PROJECT / "deploy/billing-panel.cron").read_text().splitlines()
        if line.startswith("*/5")
    ]
    account, command = line.split(maxsplit=6)[5:]
    output = machine.do("runuser", "-u", account, "--", "sh", "-c", command)
    assert not output, output


def the_database_is_backed_up(machine: Machine) -> None:
    for command in commands_of_the_document("backup"):
        machine.do("sh", "-c", command)
    dump = machine.do("sh", "-c", "cat /var/backups/billing-*.sql")
    assert "CREATE TABLE public.billing_transaction " in dump


def its_units_are_sound(machine: Machine) -> None:
    for unit in ("billing-panel.service", "billing-worker@1.service"):
        output = machine.do("systemd-analyze", "verify", "--man=no", unit)
        assert not output, output
        [exposure] = re.findall(
            r"Overall exposure level for .*: ([\d.]+)",
            machine.do("systemd-analyze", "security", "--no-pager", unit),
        )
        assert float(exposure) <= EXPOSURE_MAX, f"{unit}: {exposure}"


def killed_it_is_started_again(machine: Machine) -> None:
    for unit in ("billing-panel.service", "billing-worker@1.service"):
        machine.do("systemctl", "kill", "--signal=KILL", unit)
        wait_for(
            f"{unit} is back", lambda unit=unit: machine.run("systemctl", "is-active", unit)[0] == 0
        )
    browser = Browser(HOST, machine.root.path / "etc/nginx/billing-panel/certificate.pem")
    wait_for("the panel is back", lambda: browser.get("/healthz").status == 200)


def systemd_keeps_the_port(machine: Machine) -> None:
    """Runs the command in the comment of deploy/billing-panel.socket."""
    text = (PROJECT / "deploy/billing-panel.socket").read_text()
    shutil.copy(PROJECT / "deploy/billing-panel.socket", machine.root.path / "etc/systemd/system")
    [command] = re.findall(r"^# (systemctl stop .*)$", text, re.MULTILINE)
    machine.do("sh", "-c", command)
    machine.do("systemctl", "restart", "--no-block", "billing-panel")
    assert plain("/healthz", HOST, 8000).status == 200  # waits for the panel


def a_newer_version_is_put_to_work(machine: Machine) -> None:
    """Changed code is loaded without a pause; changed settings restart the panel."""
    module = machine.root.path / PLACE.lstrip("/") / "config/health.py"
    module.write_text(module.read_text().replace('"ok\\n"', '"ok, newer\\n"'))
    install(machine, says="has loaded this version, without a pause")
    assert plain("/healthz", HOST, 8000).text == "ok, newer\n"
    with (machine.root.path / "etc/billing-panel.env").open("a") as settings:
        settings.write("SITE_NAME='The name of it'\n")
    install(machine, says="restarted the panel")


def it_is_removed(machine: Machine) -> None:
    for command in commands_of_the_document("uninstall"):
        machine.do("sh", "-c", command)
    left = [
        name
        for name in machine.root.snapshot(without=(*RUNNING, PLACE, WHEELS, "/var/backups"))
        if "billing" in name
    ]
    assert left == [], left
    for account in ("billing", "billing-panel"):
        assert machine.run("id", account)[0] != 0
    assert (
        machine.do(
            "runuser",
            "-u",
            "postgres",
            "--",
            "psql",
            "-Atc",
            "SELECT datname FROM pg_database WHERE datname = 'billing'",
        )
        == ""
    )


Check = Callable[[Machine], None]
BEFORE: Final[tuple[Check, ...]] = (it_says_what_is_missing, it_is_set_up)
AFTER: Final[tuple[Check, ...]] = (
    again_it_changes_nothing,
    an_operator_logs_in_over_https,
    it_is_ready_and_a_worker_works,
    logins_of_one_address_are_limited,
    cron_does_the_work_of_workers,
    the_database_is_backed_up,
)
OF_SYSTEMD: Final[tuple[Check, ...]] = (
    its_units_are_sound,
    killed_it_is_started_again,
    a_newer_version_is_put_to_work,
    systemd_keeps_the_port,
    it_is_removed,
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make installation", description=__doc__)
    parser.add_argument("--suite", default="trixie", help="which Debian (default: trixie, 13)")
    parser.add_argument(
        "--python", type=Path, help="a Python to install, for a Debian whose own is too old"
    )
    parser.add_argument("--without-systemd", action="store_true", help="run in a chroot")
    parser.add_argument(
        "--here",
        action="store_true",
        help="use a copy of this machine, without systemd; faster, as most packages are there",
    )
    parser.add_argument("--root", type=Path, help="a directory to prepare the root in, and to keep")
    parser.add_argument(
        "--containers", action="store_true", help="try deploy/Containerfile and compose.yaml"
    )
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("Run this as root: it makes a root file system, and starts services there.")
    started = time.monotonic()
    with_systemd = not (options.without_systemd or options.here)
    if options.here and not sys.base_prefix.startswith("/usr"):
        options.python = Path(sys.base_prefix)
    path = options.root or Path(tempfile.mkdtemp(prefix="billing-root-"))
    root = (CopyOfThisMachine if options.here else Root)(path)
    try:
        if options.containers:
            try_containers(path)
            say(f"All of it: {time.monotonic() - started:.0f} seconds")
            return
        if not (path / PLACE.lstrip("/")).exists():
            prepare(root, options.suite, options.python, with_systemd=with_systemd)
        with (Booted if with_systemd else Machine)(root) as machine:
            if not with_systemd:
                start_postgresql(machine)
            for check in (*BEFORE, start_what_has_no_systemd, *AFTER, *OF_SYSTEMD):
                if with_systemd and check is start_what_has_no_systemd:
                    continue
                if not with_systemd and check in OF_SYSTEMD:
                    continue
                with step(check.__name__.replace("_", " ")):
                    check(machine)
    finally:
        if options.root is None:
            root.remove()
    say(f"All of it: {time.monotonic() - started:.0f} seconds")


if __name__ == "__main__":
    main()
