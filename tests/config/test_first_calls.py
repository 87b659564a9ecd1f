"""The session with curl in the README, pasted into a shell while the panel runs."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.processes import PATIENCE_SECONDS, ROOT, Serving, environment, manage

OPERATOR = "operator@example.com"


def session(port: int) -> str:
    readme = (ROOT / "README.md").read_text()
    [lines] = re.findall(r"<!-- session -->\n```sh\n(.*?)```", readme, re.DOTALL)
    assert lines.count("127.0.0.1:8000") == 1
    assert lines.count(".venv/bin/python manage.py") == 1
    return lines.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(
        ".venv/bin/python manage.py", shlex.join([sys.executable, str(ROOT / "manage.py")])
    )


def test_the_session_of_the_readme_works_when_pasted(data_dir: Path) -> None:
    if shutil.which("curl") is None:
        assert not os.environ.get("CI"), "curl is missing"
        pytest.skip("curl is not installed")
    made = manage(
        "createsuperuser",
        "--noinput",
        f"--email={OPERATOR}",
        DATA_DIR=str(data_dir),
        DJANGO_SUPERUSER_PASSWORD="operator",
    )
    assert made.returncode == 0, made.stderr
    with Serving(data_dir) as panel:
        pasted = subprocess.run(
            ["sh", "-u"],
            input=session(panel.port),
            env=environment(DATA_DIR=str(data_dir)),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        panel.press_ctrl_c()
    assert pasted.returncode == 0, pasted.stderr
    assert not pasted.stderr
    answers = [json.loads(line) for line in pasted.stdout.splitlines()]
    user, first, second, refused, balance, page = answers
    assert user["email"] == "ada@example.net"
    assert first == second
    assert (first["amount"], first["bonus_amount"]) == ("25.0000", "5.0000")
    assert (refused["code"], refused["needed"]) == ("insufficient_funds", "100.0000")
    assert (balance["real"], balance["bonus"]) == ("25.0000", "5.0000")
    assert [each["number"] for each in page["transactions"]] == [1]
