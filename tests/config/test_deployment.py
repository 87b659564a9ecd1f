"""The samples in deploy/. `make installation` tries them together."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.config.processes import PATIENCE_SECONDS, ROOT, environment
from tests.installation.containers import filled_in, instructions
from tests.installation.roots import settings_of
from tests.installation.units import read_unit

DEPLOY = ROOT / "deploy"
UNITS = ("billing-panel.service", "billing-worker@.service")
OF_GUNICORN = {"WEB_CONCURRENCY"}


@pytest.mark.parametrize(
    "script", [file.name for file in DEPLOY.iterdir() if file.read_text().startswith("#!/bin/sh")]
)
def test_scripts_can_be_read_by_any_shell(script: str) -> None:
    assert os.access(DEPLOY / script, os.X_OK)
    subprocess.run(["sh", "-n", DEPLOY / script], check=True)


def documented_settings() -> set[str]:
    page = (ROOT / "docs" / "configuration.md").read_text()
    return set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))


def test_what_the_samples_set_are_settings() -> None:
    sample = settings_of(DEPLOY / "billing-panel.env")
    assert set(sample) - OF_GUNICORN <= documented_settings()
    assert {"ENVIRONMENT", "SECRET_KEY", "DATABASE_URL", "ALLOWED_HOSTS"} <= set(sample)
    services = filled_in(
        (DEPLOY / "compose.yaml").read_text(), dict(settings_of(DEPLOY / "compose.env"))
    )
    for name in ("migrate", "panel", "worker"):
        assert set(services[name]["environment"]) <= documented_settings()


def test_no_sample_has_a_secret() -> None:
    for file in ("billing-panel.env", "compose.env"):
        for name, value in settings_of(DEPLOY / file).items():
            assert not value or not re.search("KEY|PASSWORD", name), f"{file}: {name}"


def test_units_run_this_code_under_the_account_and_with_the_settings_of_the_installation() -> None:
    for unit in UNITS:
        service = read_unit(DEPLOY / unit)
        assert service["User"] == service["Group"] == ["billing-panel"]
        assert service["EnvironmentFile"] == ["/etc/billing-panel.env"]
        assert service["WorkingDirectory"] == ["/opt/billing-panel"]
        [command] = service["ExecStart"]
        assert command.startswith("/opt/billing-panel/.venv/bin/")


def test_units_may_do_the_same() -> None:
    """If one service is hardened less than the other, that is a mistake."""
    panel, worker = ((DEPLOY / unit).read_text() for unit in UNITS)
    of_panel, of_worker = (
        text.partition("# The process may do")[2].partition("[Install]")[0]
        for text in (panel, worker)
    )
    assert "ProtectSystem=strict" in of_panel
    assert of_panel == of_worker


def test_the_image_has_all_code_and_no_database_server() -> None:
    steps = instructions((DEPLOY / "Containerfile").read_text())
    copied = [word for name, value in steps if name == "COPY" for word in value.split()[:-1]]
    assert {"manage.py", "config", "users", "billing", "templates"} <= set(copied)
    assert [name for name in copied if name.startswith("requirements")] == [
        "requirements/production.txt"
    ]
    let_through = (ROOT / ".dockerignore").read_text().splitlines()
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name.partition('/')[0]}" in let_through, name
    last_user = [value for name, value in steps if name == "USER"][-1]
    assert last_user not in ("root", "0")


def test_the_services_of_compose_are_of_one_image_and_wait_for_the_tables() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    asked = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert asked == set(settings_of(DEPLOY / "compose.env"))
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"database", "migrate", "panel", "worker"}
    for name in ("panel", "worker"):
        waits_for = services[name]["depends_on"]
        assert waits_for == {"migrate": {"condition": "service_completed_successfully"}}
    for name in ("migrate", "panel", "worker"):
        assert services[name]["image"] == "billing-panel"


PIP = """#!/bin/sh
echo "Collecting django==5.2 (from -r requirements/production.txt (line 1))"
echo "  Downloading django-5.2-py3-none-any.whl (8.3 MB)"
echo "Installing collected packages: django"
echo "trouble" >&2
exit {status}
"""


@pytest.mark.parametrize("status", [0, 1])
def test_installing_says_that_it_goes_on_and_whether_it_went_well(
    tmp_path: Path, status: int
) -> None:
    python = tmp_path / "python"
    python.write_text(PIP.format(status=status))
    python.chmod(0o755)
    done = subprocess.run(
        ["sh", DEPLOY / "install-packages", python, "lock.txt"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "trouble\n")
    assert done.stdout == "  django==5.2\n  putting them in place\n"
