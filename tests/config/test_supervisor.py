"""How `manage.py serve` keeps its programs running, tried with trivial programs."""

import signal
import subprocess
import sys

import pytest

from billing.management.supervisor import CannotStart, Child
from tests.config.processes import PATIENCE_SECONDS, ROOT

ENDS = (sys.executable, "-c", "")
STAYS = (sys.executable, "-c", "import time; time.sleep(1000)")
SAYS_FOUR = (sys.executable, "-c", "raise SystemExit(4)")


def starts(child: Child, now: float) -> bool:
    """True if the program, once it has ended, is started again at this time."""
    last = child.process
    wait_for_end(child)
    child.keep_running(now)
    return child.process is not last


def wait_for_end(child: Child) -> None:
    if child.process:
        child.process.wait()


def test_what_ends_is_started_again_after_a_pause_that_grows_to_a_minute() -> None:
    child, now, pauses = Child("It", ENDS), 1000.0, []
    assert starts(child, now)
    for _ in range(8):
        begun = now
        while not starts(child, now):
            now += 0.5
        pauses.append(now - begun)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    wait_for_end(child)


def test_what_has_run_for_long_is_started_at_once_and_its_pauses_are_short_again() -> None:
    child = Child("It", STAYS)
    assert starts(child, 1000)
    child.keep_running(1062)
    child.send(signal.SIGKILL)
    assert starts(child, 1063)
    child.send(signal.SIGKILL)
    assert not starts(child, 1063.5)
    assert starts(child, 1064)
    child.send(signal.SIGKILL)
    wait_for_end(child)


def test_each_end_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    child = Child("The worker", ENDS)
    for now in (1000, 1000.1, 1000.2, 1001):
        starts(child, now)
    assert caplog.messages == ["The worker ended with status 0; it is started again."]
    wait_for_end(child)


def test_what_says_that_it_cannot_start_is_not_started_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    child = Child("It", SAYS_FOUR, cannot_start_status=4)
    assert starts(child, 1000)
    with pytest.raises(CannotStart):
        starts(child, 2000)
    assert caplog.messages == []


STUBBORN = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(1000)
"""
SUPERVISES = """
import sys
from billing.management import supervisor
supervisor.ENDS_SECONDS = 1
supervisor.DIES_SECONDS = 60
child = supervisor.Child("It", [sys.executable, "-c", sys.argv[1]])
supervisor.Supervisor(child).run()
print(child.process.returncode)
"""


def test_what_does_not_end_in_time_is_killed() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SUPERVISES, STUBBORN],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (0, f"{-signal.SIGKILL}\n"), ended.stderr


LEAVES_ONE = """
import os, signal, subprocess, sys, time
started, tell = os.pipe()
late = f"import os, time; os.write({tell}, b'.'); time.sleep(1); print('gone', flush=True)"
subprocess.Popen([sys.executable, "-c", late], pass_fds=[tell])
os.read(started, 1)
os.kill(os.getppid(), signal.SIGTERM)
time.sleep(1000)
"""


def test_it_ends_after_what_its_programs_have_left_behind() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SUPERVISES, LEAVES_ONE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert ended.stdout.split() == ["gone", f"{-signal.SIGTERM}"], ended.stderr
