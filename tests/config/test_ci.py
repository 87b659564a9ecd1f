"""The parts of .ci/run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from coverage import Coverage
from pre_commit.clientlib import load_config

from tests.config.processes import PATIENCE_SECONDS, ROOT, environment
from tests.coverage import problems, rules


@pytest.mark.parametrize(("ci", "status"), [({}, 0), ({"CI": "true"}, 1)])
def test_a_skipped_browser_test_fails_in_ci(
    tmp_path: Path, ci: dict[str, str], status: int
) -> None:
    (tmp_path / "test_page.py").write_text(
        "import pytest\n\ndef test_page():\n    pytest.skip('no Chromium here')\n"
    )
    plain = [
        "-p",
        "no:randomly",
        "-p",
        "no:django",
        "-p",
        "tests.browser.no_skips",
        "-c",
        os.devnull,
        f"--rootdir={tmp_path}",
    ]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *plain, str(tmp_path)],
        env=environment(**ci),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert run.returncode == status, run.stdout
    assert ("no Chromium here" in run.stdout) == bool(ci)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (
            "3.9",
            "This panel needs Python 3.12, 3.13 or 3.14, with its venv module; found: 3.9. "
            "How to get one on this system: docs/deployment.md, section 1.\n",
        ),
        (
            "3.13",
            "Python 3.13 is here, but not its venv module. On Debian and Ubuntu: "
            "apt-get install python3-venv.\n",
        ),
    ],
)
def test_a_python_that_does_not_do_is_named(tmp_path: Path, version: str, message: str) -> None:
    for name in ("python3", "python"):
        (tmp_path / name).write_text(
            f"#!/bin/sh\ncase $2 in *print*) echo {version};; *) exit 1;; esac\n"
        )
        (tmp_path / name).chmod(0o755)
    for tool in ("cat", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or "")
    found = subprocess.run(
        ["sh", ROOT / ".ci" / "find-python"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 1
    assert found.stderr == message


def test_hooks_run_what_is_locked_here_and_fetch_nothing() -> None:
    hooks = []
    for repository in load_config(str(ROOT / ".pre-commit-config.yaml"))["repos"]:
        assert repository["repo"] == "local"
        hooks += repository["hooks"]
    for hook in hooks:
        assert hook["language"] in ("system", "unsupported"), hook["id"]
        assert not hook["additional_dependencies"], hook["id"]
        assert hook["entry"].startswith(".venv/bin/python -m "), hook["id"]
    run = {hook["entry"].split()[2] for hook in hooks}
    for target in ("lint", "types"):
        made = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        checks = {line.split()[2] for line in made.splitlines() if " -m " in line}
        assert checks & run, f"make {target} checks what no hook does"


def test_rules_of_money_that_no_test_runs_are_named(tmp_path: Path) -> None:
    measured = Coverage(data_file=str(tmp_path / "measured"))
    data = measured.get_data()
    data.add_arcs({str(ROOT / "manage.py"): [(-1, 1)]})
    data.touch_files(map(str, rules()))
    missed = [*problems(measured)]
    assert len(missed) > 20
    assert any(
        problem.startswith(
            "billing/plans/pricing.py has rules of money: tests have to run 98 % of its lines and "
            "branches, and run 0.0 %.\n"
        )
        for problem in missed
    )
    assert missed[-1].startswith("Tests have to run 96 % of all measured code")


def test_other_pythons_are_found_by_what_they_say_they_are(tmp_path: Path) -> None:
    """Like pyenv's shims, these run the version in PYENV_VERSION, or nothing."""
    for name, answer in (
        ("python3.12", 'test "$PYENV_VERSION" = 3.12 && echo 3.12 /opt/its/python3.12'),
        ("python3.13", "exit 1"),
        ("python3.14", "echo 3.11 /usr/bin/python3.11"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / name).chmod(0o755)
    checkout = tmp_path / "checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text("#!/bin/sh\necho 3.11\n")
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    shutil.copy(ROOT / "pyproject.toml", checkout)
    (tmp_path / "sed").symlink_to(shutil.which("sed") or "")
    found = subprocess.run(
        [shutil.which("sh") or "", ROOT / ".ci" / "other-pythons"],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == "3.12 /opt/its/python3.12\n"
    assert found.stderr == (
        "Python 3.13 is not here: not tried.\nPython 3.14 is not here: not tried.\n"
    )
