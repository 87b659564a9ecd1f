"""A restart of the panel under gunicorn, as the README has it: nobody is refused meanwhile."""

import os
import re
import signal
import socket
import threading
from collections import Counter
from pathlib import Path

from tests.config.processes import is_running, wait_for
from tests.config.web import Web


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
        # While the old workers still answer all is well; it has to be so when none is left, too.
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
        # Of the old ones none stops before all the new ones listen.
        said = re.findall(r"Worker (ready|exiting)", web.said)
        assert said == ["ready"] * 4 + ["exiting"] * 2
        assert web.process.poll() is None


def test_a_version_that_does_not_start_leaves_the_old_one_at_work(
    committed_db: None, tmp_path: Path
) -> None:
    with Web(tmp_path) as web:
        wait_for(lambda: len(workers_of(web)) == 2)
        old = workers_of(web)
        # The secret key's file cannot be read any more, as one of several ways not to start.
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
            os.kill(pid, signal.SIGSTOP)  # whatever it is busy with
        web.process.kill()
        web.process.wait()
        wait_for(lambda: not any(map(is_running, workers)))
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", web.port))
            listener.listen()  # nobody else does
