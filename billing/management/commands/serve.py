"""`manage.py serve`: runs the panel on this machine, and sets it up if necessary.

`make run` runs this. In production gunicorn runs by itself; see docs/deployment.md.
"""

import errno
import gc
import os
import signal
import socket
import sys
from types import FrameType
from typing import Any, Final

from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

from billing.management.demo.people import PASSWORD
from billing.management.supervisor import ENDINGS, CannotStart, Child, Supervisor
from users.models import User

HOST: Final = "127.0.0.1"
BACKLOG: Final = 512
DEMO_LOGIN: Final = "operator@example.com"
GUNICORN_APP_LOAD_ERROR: Final = 4  # config/wsgi.py has logged why
FIRST_HANDED_OVER: Final = 3
PREPARING: Final = 0x62696C6C  # the advisory lock for preparing the database


class Command(BaseCommand):
    help = "Serves the panel on this machine. Sets up the database with demo data first."
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
        except CannotStart:
            sys.exit(1)
        except (CommandError, DatabaseError):  # an interrupted step raises these
            if not self.ending:
                raise

    def end(self, signal_number: int, frame: FrameType | None) -> None:
        """Ends the command in a way that lets the embedded database stop."""
        self.ending = True
        signal.pthread_sigmask(
            signal.SIG_BLOCK, ENDINGS
        )  # further signals do not interrupt the end
        raise KeyboardInterrupt  # for this exception the driver cancels its query

    def serve(self, *, demo: bool) -> None:
        listener = self.listen(settings.PORT)
        self.prepare_database(demo=demo)
        self.greet()
        if self.ending:
            return  # Python could only ignore the interrupt
        connections.close_all()  # each process needs its own connections
        gc.freeze()  # saves time at the end of the process
        with listener:
            Supervisor(_web(listener), _jobs()).run()

    def listen(self, port: int) -> socket.socket:
        """Binds the port before anything else, so that a second start fails at once.

        A supervisor like systemd can hand over the socket: then requests wait during a restart, and
        none is refused.
        """
        if handed_over := _handed_over():
            return handed_over
        try:
            return socket.create_server((HOST, port), backlog=BACKLOG)
        except PermissionError:
            raise CommandError(
                f"Port {port} is reserved for the system; choose another: make run PORT=8000"
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
            # Several servers may start on one database. The lock ends with the connection.
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


def _web(listener: socket.socket) -> Child:
    """Returns gunicorn, as in production except for what is set here, with this socket."""
    return Child(
        "The web server",
        [
            *(sys.executable, "-m", "gunicorn", "config.wsgi"),
            # It also adds the panel to sys.path.
            *("--config", str(settings.BASE_DIR / "gunicorn.conf.py")),
            *("--bind", f"fd://{listener.fileno()}"),
            *("--workers", "2", "--preload", "--graceful-timeout", "5", "--log-level", "error"),
        ],
        environment={
            "ENVIRONMENT": settings.ENVIRONMENT,  # unset would be production in config/wsgi.py
            "SERVE_PID": str(os.getpid()),  # gunicorn ends with this process
        },
        pass_fds=[listener.fileno()],
        cannot_start_status=GUNICORN_APP_LOAD_ERROR,
    )


def _jobs() -> Child:
    return Child(
        "The worker", [sys.executable, sys.argv[0], "worker", "--parent", str(os.getpid())]
    )


def _handed_over() -> socket.socket | None:
    """Returns the socket that a supervisor like systemd hands over, if any."""
    handed_to, number = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "0")
    if handed_to != str(os.getpid()) or number == "0":
        return None
    return socket.socket(fileno=FIRST_HANDED_OVER)
