"""Restarts of the panel under gunicorn, as in docs/deployment.md: no request is refused."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.config.processes import PATIENCE_SECONDS, ROOT, environment, is_running, wait_for
from tests.config.web import Web, handing_over
from tests.config.web import ask as ask_for


def workers_of(web: Web) -> set[int]:
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text()
    return {pid for pid in map(int, children.split()) if is_running(pid)}


def test_no_request_is_refused_or_waits_for_a_restart_by_sighup(
    committed_db: None, tmp_path: Path
) -> None:
    with Web(tmp_path) as web:
        wait_for(lambda: web.said.count("Worker ready") == 2)
        old = workers_of(web)
        over = threading.Event()
        statuses: Counter[int] = Counter()
        # Requests that began when no old worker was left. These have to be answered, too.
        without_old: Counter[int] = Counter()

        def ask() -> None:
            while not over.is_set():
                old_ones = any(map(is_running, old))
                status = web.get("/admin/login/").status
                statuses[status] += 1
                if not old_ones:
                    without_old[status] += 1

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        web.process.send_signal(signal.SIGHUP)
        wait_for(lambda: not any(map(is_running, old)))
        wait_for(lambda: without_old[200] >= 20)
        over.set()
        for thread in asking:
            thread.join()
        assert set(statuses) == {200}
        # No old worker stops before all new ones listen.
        changes = re.findall(r"Worker (ready|exiting)", web.said)
        assert changes == ["ready"] * 4 + ["exiting"] * 2
        assert web.process.poll() is None


def test_no_request_is_refused_by_a_stop_and_a_start_where_a_supervisor_keeps_the_port(
    committed_db: None, tmp_path: Path
) -> None:
    over, stopped = threading.Event(), threading.Event()
    statuses: Counter[int] = Counter()
    while_stopped: Counter[int] = Counter()

    def ask(port: int) -> None:
        while not over.is_set():
            # A request that is sent while nobody runs is answered by the next process.
            begun_without = stopped.is_set()
            status = ask_for(port, "/admin/login/").status
            statuses[status] += 1
            if begun_without:
                while_stopped[status] += 1

    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        asking = [threading.Thread(target=ask, args=[port]) for _ in range(4)]
        with Web(tmp_path, listener=listener) as first:
            for thread in asking:
                thread.start()
            wait_for(lambda: statuses[200] > 10)
            first.process.terminate()
            assert first.process.wait(PATIENCE_SECONDS) == 0
        stopped.set()
        with Web(tmp_path, listener=listener):
            wait_for(lambda: while_stopped[200] > 10)
            over.set()
            for thread in asking:
                thread.join()
    assert set(statuses) == {200}


def test_a_version_that_does_not_start_leaves_the_old_one_at_work(
    committed_db: None, tmp_path: Path
) -> None:
    with Web(tmp_path) as web:
        wait_for(lambda: len(workers_of(web)) == 2)
        old = workers_of(web)
        # An unreadable secret key: one of the reasons for which a version does not start.
        (tmp_path / "secret_key").unlink()
        (tmp_path / "secret_key").mkdir()
        web.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "The new version does not start" in web.said)
        wait_for(lambda: workers_of(web) == old)
        assert web.get("/admin/login/").status == 200
        assert web.process.poll() is None


def test_web_workers_end_with_their_master_however_it_ends(
    committed_db: None, tmp_path: Path
) -> None:
    with Web(tmp_path) as web:
        wait_for(lambda: len(workers_of(web)) == 2)
        workers = workers_of(web)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)  # so that it cannot react by itself
        web.process.kill()
        web.process.wait()
        wait_for(lambda: not any(map(is_running, workers)))
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", web.port))
            listener.listen()  # nobody else listens on the port


def test_serve_takes_the_port_that_a_supervisor_keeps(data_dir: Path) -> None:
    """A request that comes while `serve` does not run waits for the next one."""
    command = [sys.executable, str(ROOT / "manage.py"), "serve", "--no-demo"]
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        with ThreadPoolExecutor() as programs:
            asked = programs.submit(ask_for, port, "/admin/login/")
            for _ in range(2):
                serving = subprocess.Popen(
                    [*handing_over(listener), *command],
                    env=environment(DATA_DIR=str(data_dir)),
                    stdin=subprocess.DEVNULL,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )
                assert asked.result().status == 200
                serving.send_signal(signal.SIGTERM)
                assert serving.wait(PATIENCE_SECONDS) == 0
                asked = programs.submit(ask_for, port, "/admin/login/")
            listener.close()  # ends the request that still waits
