"""`manage.py serve` and the embedded PostgreSQL, as real processes that are killed."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.glogging import Logger

from config.serving import WebWorker
from tests.config.processes import (
    PATIENCE_SECONDS,
    ROOT,
    Serving,
    environment,
    is_running,
    manage,
    postmaster,
    takes_signals,
    wait_for,
)


def assert_ledger_is_whole(data_dir: Path) -> None:
    proof = manage("verify_ledger", DATA_DIR=str(data_dir))
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "1 transaction" in proof.stdout


def is_followed(killed: int, data_dir: Path) -> bool:
    """True if another server has started. Until then the killed one may still answer once."""
    with suppress(FileNotFoundError, ValueError):  # while the pid file is replaced
        return postmaster(data_dir) != killed
    return False


def test_whatever_is_killed_the_panel_comes_back_with_its_data(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        os.kill(panel.workers[0], signal.SIGKILL)
        wait_for(lambda: panel.health() == 200)

        killed = panel.postmaster
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: is_followed(killed, data_dir))
        wait_for(lambda: panel.health() == 200)

        web, workers = panel.web, panel.workers
        assert web is not None
        os.kill(web, signal.SIGKILL)
        wait_for(lambda: not any(map(is_running, workers)))
        wait_for(lambda: panel.health() == 200)
        assert panel.web not in (None, web)

        worker, children, database = panel.wait_for_job_worker(), panel.children, panel.postmaster
        assert {worker, panel.web, *panel.workers} <= set(children)
        panel.process.kill()
        panel.process.wait()
        wait_for(lambda: not any(map(is_running, [*children, database])))

    with Serving(data_dir) as panel:
        assert_ledger_is_whole(data_dir)
        assert panel.health() == 200, "a command beside the server stopped the database"
        database = panel.postmaster
        assert panel.press_ctrl_c() == 0
        assert "Traceback" not in panel.said
        wait_for(lambda: not is_running(database))


def test_a_web_worker_that_has_only_just_started_hears_that_it_shall_end(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        for _ in range(5):
            wait_for(lambda: len(panel.workers) == 2)  # one that has ended is replaced
            known = panel.workers
            os.kill(known[0], signal.SIGKILL)
            # Without a pause: the signal has to come before the worker has its handlers.
            end = time.monotonic() + PATIENCE_SECONDS
            while not (new := set(panel.workers) - set(known)):
                assert time.monotonic() < end
            started = new.pop()
            os.kill(started, signal.SIGTERM)
            wait_for(lambda pid=started: pid not in panel.workers)
        wait_for(lambda: panel.health() == 200)


def test_a_web_worker_ends_also_while_it_hands_out_a_request() -> None:
    worker = WebWorker(0, os.getpid(), [], None, 0, Config(), Logger(Config()))
    worker.tpool = worker.get_thread_pool()

    def end() -> None:
        with pytest.raises(SystemExit):
            worker.handle_quit(signal.SIGQUIT, None)

    ending = threading.Thread(target=end, daemon=True)
    with worker.tpool._shutdown_lock:  # the pool holds it while it takes a task
        ending.start()
        ending.join(PATIENCE_SECONDS)
        assert not ending.is_alive()
    worker.handle_quit(signal.SIGQUIT, None)  # ends already
    worker.tmp.close()


def test_a_web_worker_that_has_stopped_serving_ignores_a_signal_to_end_at_once() -> None:
    worker = WebWorker(0, os.getpid(), [], None, 0, Config(), Logger(Config()))
    worker.tpool = worker.get_thread_pool()
    worker.poller = selectors.DefaultSelector()
    worker.method_queue.init()
    worker.alive = False  # as after SIGTERM
    worker.run()
    worker.handle_quit(signal.SIGINT, None)  # the interpreter waits for the pool's threads
    worker.tmp.close()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_panel_ends_in_good_order_however_often_it_is_told(
    data_dir: Path, first: signal.Signals
) -> None:
    with Serving(data_dir) as panel:
        panel.wait_for_job_worker()
        children, database = panel.children, panel.postmaster
        with socket.create_connection(("127.0.0.1", panel.port)) as busy:
            busy.sendall(
                b"POST /admin/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
            )
            panel.process.send_signal(first)
            while panel.process.poll() is None:  # also while the interpreter exits
                panel.process.send_signal(signal.SIGINT)
                time.sleep(0.01)
        assert panel.process.returncode == 0
        # The kernel ends a web worker that outlived gunicorn's master process, a moment after it.
        wait_for(lambda: not any(map(is_running, [*children, database])))
        # Gunicorn may log that it had to kill the worker with the request.
        assert "Traceback" not in panel.said
        assert "Exception" not in panel.said


def test_a_panel_that_cannot_be_started_again_ends_with_one_sentence(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        worker, database, web = panel.wait_for_job_worker(), panel.postmaster, panel.web
        assert web is not None
        # An unreadable secret key, as an example of a setting that has become wrong.
        (data_dir / "secret_key").unlink()
        (data_dir / "secret_key").mkdir()
        os.kill(web, signal.SIGKILL)
        assert panel.process.wait(PATIENCE_SECONDS) == 1
        assert panel.said.splitlines()[-1] == (
            f"Error: DATA_DIR ({data_dir}) cannot be used: Is a directory."
        )
        assert "Traceback" not in panel.said
        assert not any(map(is_running, [worker, database]))


TIED = """
import os, sys, time
from config import serving
sys.platform = sys.argv[1]
if not os.fork():
    serving.end_with_parent(os.getppid())
    os.write(1, b"%d\\n" % os.getpid())
time.sleep(1000)
"""


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_a_process_that_is_tied_to_another_ends_with_it(platform: str) -> None:
    command = [sys.executable, "-c", TIED, platform]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    try:
        wait_for(lambda: not is_running(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_everything_killed_at_once_is_found_and_taken_over(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        database, worker = panel.postmaster, panel.wait_for_job_worker()
        children = panel.children
        # Stopped first. Otherwise it would notice that its panel dies, or if it dies first, its
        # panel would start another.
        os.kill(worker, signal.SIGSTOP)
        os.killpg(panel.process.pid, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        panel.process.wait()
        wait_for(lambda: not any(map(is_running, children)))  # until then they use the database
    assert is_running(database)  # nobody was left to stop it
    assert_ledger_is_whole(data_dir)
    wait_for(lambda: not is_running(database))


def test_a_postmaster_pid_that_another_program_has_by_now_is_no_obstacle(data_dir: Path) -> None:
    pid_file = data_dir / "postgres" / "postmaster.pid"
    pid_file.write_text(f"{os.getpid()}\n{data_dir / 'postgres'}\n")
    assert_ledger_is_whole(data_dir)


def test_processes_that_start_at_once_share_one_server(data_dir: Path) -> None:
    command = [sys.executable, ROOT / "manage.py", "verify_ledger"]
    variables = environment(DATA_DIR=str(data_dir))
    together = [
        subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for _ in range(3)
    ]
    output = [process.communicate(timeout=PATIENCE_SECONDS)[0] for process in together]
    assert [process.returncode for process in together] == [0, 0, 0], output
    assert not (data_dir / "postgres" / "postmaster.pid").exists()


def test_a_first_start_can_be_interrupted_and_repeated(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    (data_dir / "postgres.new-killed").mkdir(parents=True)  # left by an initdb that was killed
    process = subprocess.Popen(
        # If the tests run in the background, SIGINT is ignored, and child processes inherit that.
        ["env", "--default-signal=INT", sys.executable, ROOT / "manage.py", "migrate"],
        env=environment(DATA_DIR=str(data_dir)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    wait_for(lambda: len(list(data_dir.glob("postgres.new-*/*"))) > 3)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert not (data_dir / "postgres").exists()

    again = manage("showmigrations", "users", DATA_DIR=str(data_dir))
    assert again.returncode == 0, again.stderr
    assert not list(data_dir.glob("postgres.new-*"))


def test_a_path_too_long_for_a_socket_is_served_from_a_short_one(prepared_data_dir: Path) -> None:
    data_dir = prepared_data_dir.parent / ("long" * 25) / "var"
    data_dir.parent.mkdir()
    subprocess.run(["cp", "-a", prepared_data_dir, data_dir], check=True)
    assert_ledger_is_whole(data_dir)


def test_the_server_is_asked_for_by_its_own_data(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        assert postmaster(data_dir) == panel.postmaster
        asked = manage("dbshell", "--", "-Atc", "SHOW data_directory", DATA_DIR=str(data_dir))
    assert asked.stdout.strip() == str(data_dir / "postgres"), asked.stderr


def test_the_port_is_free_at_once_where_the_panel_was_killed(data_dir: Path) -> None:
    with Serving(data_dir) as panel:
        panel.wait_for_job_worker()
        # A new worker blocks signals until it is tied to gunicorn's master process.
        wait_for(lambda: len(panel.workers) == 2 and all(map(takes_signals, panel.workers)))
        assert panel.web is not None
        workers = [panel.web, *panel.workers]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # so that they cannot react by themselves
        panel.process.kill()
        panel.process.wait()
        # The kernel kills them together with the panel.
        wait_for(lambda: not any(map(is_running, workers)))
        with socket.create_server(("127.0.0.1", panel.port)):
            pass


def test_a_port_in_use_is_one_sentence(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        refused = manage("serve", DATA_DIR=str(data_dir), PORT=str(port))
    assert refused.returncode == 1
    other = port + 1 if port < 65535 else 8000
    assert refused.stderr.strip() == (
        f"CommandError: Port {port} is in use; choose another: make run PORT={other}"
    )
