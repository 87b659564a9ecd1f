"""Every module can be imported, even if only a command or a setting uses it."""

import subprocess
import sys

from tests.config.processes import PATIENCE_SECONDS, ROOT, environment
from tests.test_architecture import APPLICATIONS, modules

IMPORT_ALL = """
import importlib, sys, django
django.setup()
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_every_module_can_be_imported_and_none_is_warned_about() -> None:
    """Uses a new process, because importing some of the modules changes the process."""
    names = [name for name, _ in modules(*APPLICATIONS)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_ALL, *names],
        cwd=ROOT,
        env=environment(DJANGO_SETTINGS_MODULE="config.settings"),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
