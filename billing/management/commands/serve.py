"""`manage.py serve`: the panel on this machine, from an empty data directory if need be.

This is what `make run` runs. Production runs gunicorn itself; see docs/deployment.md.
"""

import errno
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.wsgi import get_wsgi_application
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import import_string
from gunicorn import systemd
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter

from billing import counters
from billing.management.demo.people import PASSWORD
from users.database import WEB, limit_waits
from users.models import User

HOST: Final = "127.0.0.1"
BACKLOG: Final = 512
DEMO_LOGIN: Final = "operator@example.com"
ENDINGS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TO_WORKERS: Final = (*ENDINGS, signal.SIGQUIT)  # sent by a terminal, or by gunicorn
WORKER_ENDS_SECONDS: Final = 10  # what a job does until its next commit takes less
WORKER_PAUSE_MIN_SECONDS: Final = 1.0
WORKER_PAUSE_MAX_SECONDS: Final = 60.0
PREPARING: Final = 0x62696C6C  # the advisory lock of whoever prepares the database


class Command(BaseCommand):
    help = "Serves the panel on this machine; sets up the database first, with demo data."
    requires_system_checks = []
    ending = False

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--no-demo",
            action="store_true",
            help="leave an empty database empty",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        for number in ENDINGS:
            signal.signal(number, self.end)
        try:
            self.serve(demo=not options["no_demo"])
        except KeyboardInterrupt:
            return
        except (CommandError, DatabaseError):  # what an interrupted step makes of it
            if not self.ending:
                raise

    def end(self, signal_number: int, frame: FrameType | None) -> None:
        """Ends the command, whatever it does, in a way that lets the embedded database stop."""
        self.ending = True
        _ignore_further_signals()
        raise KeyboardInterrupt  # the one exception for which the driver cancels its query

    def serve(self, *, demo: bool) -> None:
        listener = self.listen(settings.PORT)
        self.prepare_database(demo=demo)
        self.greet()
        connections.close_all()  # a connection belongs to one process; workers open their own
        Panel(listener).run()

    def listen(self, port: int) -> socket.socket:
        """Takes the port before anything else is done, so that of two starts one fails at once.

        A supervisor that keeps the port itself hands it over, as systemd does: while the panel is
        restarted, requests then wait, and none is refused.
        """
        if systemd.listen_fds():
            return socket.socket(fileno=systemd.SD_LISTEN_FDS_START)
        try:
            return socket.create_server((HOST, port), backlog=BACKLOG)
        except PermissionError:
            raise CommandError(
                f"Port {port} is only for the system; choose another: make run PORT=8000"
            ) from None
        except OSError as problem:
            if problem.errno != errno.EADDRINUSE:
                raise CommandError(f"Port {port} cannot be used: {problem.strerror}.") from None
            other = port + 1 if port < 65535 else 8000
            raise CommandError(
                f"Port {port} is in use; choose another: make run PORT={other}"
            ) from None

    def prepare_database(self, *, demo: bool) -> None:
        with connection.cursor() as cursor:
            # Several servers may start on one database. The lock goes with the connection.
            cursor.execute("SELECT pg_advisory_lock(%s)", [PREPARING])
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            self.say("Setting up the database …")
            call_command("migrate", verbosity=0, interactive=False)
        if demo and not User.objects.exists():
            self.say("Loading demo data …")
            call_command("seed_demo", verbosity=0)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [PREPARING])

    def greet(self) -> None:
        address = f"http://{HOST}:{settings.PORT}{settings.SCRIPT_NAME}/"
        self.say(f"The panel is at {address} (Ctrl-C ends it).")
        operators = User.objects.filter(is_staff=True, is_active=True)
        demo = operators.filter(email__iexact=DEMO_LOGIN).first()
        if demo and check_password(PASSWORD, demo.password):
            self.say(f"Log in as {DEMO_LOGIN} with password {PASSWORD}.")
        elif not operators.exists():
            self.say("Nobody can log in yet: .venv/bin/python manage.py createsuperuser")

    def say(self, sentence: str) -> None:
        self.stdout.write(sentence)
        self.stdout.flush()


class Panel(BaseApplication):
    """gunicorn within this process: it ends with it, and its workers notice when it is killed."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": f"fd://{self.listener.detach()}",
            "worker_class": "config.serving.WebWorker",
            "workers": 2,
            "threads": 4,
            "preload_app": True,
            "loglevel": "error",
            "graceful_timeout": 5,
            "limit_request_line": 8190,  # the most there is: the Panel API takes users by GET
            "control_socket_disable": True,
            # As config/wsgi.py does: gunicorn fails at an address without the prefix.
            "post_fork": lambda arbiter, worker: os.environ.pop("SCRIPT_NAME", None),
            "when_ready": _end_when_terminal_closes,
            "pre_request": "config.headers.note_repeated",
            "worker_int": _ignore_further_signals,
            "on_exit": _ignore_further_signals,
        }.items():
            self.cfg.set(name, value)

    def run(self) -> None:
        PanelArbiter(self).run()

    def load(self) -> Any:
        limit_waits(WEB)
        application = get_wsgi_application()
        application.request_class = import_string(settings.REQUEST_CLASS)
        counters.keep_in(settings.METRICS_DIR)
        gc.freeze()  # what is loaded stays: workers share it, and no end has to sweep it
        return application


class PanelArbiter(Arbiter):
    """gunicorn's own process, which looks after its web workers, and after one for jobs."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel)
        self.jobs = JobWorker()

    def spawn_worker(self) -> int:
        """Keeps signals back from the new process until it has handlers of its own.

        Until then it has this one's, which put a signal into a queue that nobody reads there.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, TO_WORKERS)
        pid = int(super().spawn_worker())  # the worker itself does not come back
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TO_WORKERS)
        return pid

    def manage_workers(self) -> None:
        super().manage_workers()  # every second, and whenever a child ends
        self.jobs.keep_running()

    def stop(self, graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - as gunicorn has it
        self.jobs.tell_to_end()
        super().stop(graceful)
        self.jobs.wait_for_end()


class JobWorker:
    """`manage.py worker` in a process of its own, started again when it ends, after a pause."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.may_start_at = 0.0
        self.pause = WORKER_PAUSE_MIN_SECONDS
        self.ending = False

    def keep_running(self) -> None:
        now = time.monotonic()
        if self.ending or now < self.may_start_at:
            return
        if self.process is not None and self.process.poll() is None:
            if now > self.may_start_at + WORKER_PAUSE_MAX_SECONDS:
                self.pause = WORKER_PAUSE_MIN_SECONDS
            return
        self.process = subprocess.Popen(
            [sys.executable, sys.argv[0], "worker", "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is this process's to handle
        )
        self.may_start_at = now + self.pause
        self.pause = min(self.pause * 2, WORKER_PAUSE_MAX_SECONDS)

    def tell_to_end(self) -> None:
        self.ending = True
        if self.process is not None:
            self.process.terminate()

    def wait_for_end(self) -> None:
        if self.process is None:
            return
        try:
            self.process.wait(WORKER_ENDS_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _end_when_terminal_closes(arbiter: Any) -> None:
    """gunicorn would reload its configuration on this signal."""
    signal.signal(signal.SIGHUP, lambda *_: arbiter.signal(signal.SIGTERM, None))


def _ignore_further_signals(process: object = None) -> None:
    """Ctrl-C reaches every process, some of them twice; what is ending is left to end.

    Not with SIG_IGN: Python complains of a signal that came just before that was set.
    """
    for number in TO_WORKERS:
        signal.signal(number, lambda *_: None)
