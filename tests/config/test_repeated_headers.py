"""Headers that come twice, and HEAD, with real web servers."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.config.processes import (
    PATIENCE_SECONDS,
    ROOT,
    Serving,
    environment,
    manage,
    reserved_port,
    wait_for,
)

OPERATOR = "operator@example.com"
BODY = json.dumps({"email": "ada@example.net"}).encode()


def key_in(data_dir: Path) -> str:
    who = {"DATA_DIR": str(data_dir), "DJANGO_SUPERUSER_PASSWORD": "operator"}
    made = manage("createsuperuser", "--noinput", f"--email={OPERATOR}", **who)
    assert made.returncode == 0, made.stderr
    key = manage("create_api_key", "--owner", OPERATOR, "--name", "Gateway", **who)
    assert key.returncode == 0, key.stderr
    return key.stdout.strip()


class Caller:
    """Sends requests with exactly the given header lines."""

    def __init__(self, port: int, key: str) -> None:
        self.port = port
        self.key = key

    def __call__(self, method: str, path: str, *headers: str, body: bytes = b"") -> Any:
        """Returns the status, the head and the body of the answer."""
        lines = [f"{method} {path} HTTP/1.0", "Host: localhost"]
        lines += [f"Authorization: Bearer {self.key}", *headers]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        with socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
            raw = b"".join(iter(lambda: connection.recv(65_536), b""))
        head, _, rest = raw.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), head.decode("latin-1"), rest


def refuses_what_came_twice(call: Caller) -> None:
    users = "/api/v1/users"
    for header in ("Idempotency-Key: a", "X-Request-Id: order-4711", "Content-Type: text/plain"):
        other = header.replace(": ", ": b").replace("btext", "text")
        status, _, rest = call("POST", users, header, other, body=BODY)
        assert status == 400, (header, rest)
        if rest.startswith(b"{"):  # otherwise the web server itself has refused it
            assert json.loads(rest)["code"] == "repeated_header", header
    status, _, rest = call("POST", users, f"Authorization: Bearer {call.key}", body=BODY)
    assert (status, json.loads(rest)["header"]) == (400, "Authorization")
    status, _, _ = call("POST", users, "Content-Length: 5", body=BODY)
    assert status == 400
    status, _, rest = call("GET", "/v2/panel/user/list", "Authorization: NVX 1")
    assert (status, json.loads(rest)["status"]["code"]) == (400, 5)
    status, _, rest = call("GET", "/api/v1/users")
    assert "ada@example.net" not in {user["email"] for user in json.loads(rest)["users"]}
    # A comma is part of a key, and two lines of If-Match are one list.
    status, _, _ = call("POST", users, "Idempotency-Key: a,b", body=BODY)
    assert status == 201
    status, _, rest = call("GET", "/api/v1/users")
    [user] = [each for each in json.loads(rest)["users"] if each["email"] == "ada@example.net"]
    path = f"{users}/{user['id']}"
    _, head, _ = call("GET", path)
    [tag] = [line[6:] for line in head.split("\r\n") if line.lower().startswith("etag: ")]
    change = json.dumps({"city": "Berlin"}).encode()
    status, _, _ = call("PATCH", path, 'If-Match: "x"', f"If-Match: {tag}", body=change)
    assert status == 200


def answers_head_without_a_body(call: Caller) -> None:
    for path in ("/api/v1/users", "/healthz", "/api/v1/openapi.json", "/api/v1/docs"):
        status, head, rest = call("HEAD", path)
        assert (status, rest) == (200, b""), path
        assert "content-length: 0\r" not in head.lower()


def test_the_panel_refuses_headers_that_came_twice(data_dir: Path) -> None:
    key = key_in(data_dir)
    with Serving(data_dir) as panel:
        call = Caller(panel.port, key)
        refuses_what_came_twice(call)
        answers_head_without_a_body(call)
        panel.press_ctrl_c()


def test_so_does_gunicorn_as_it_is_deployed(data_dir: Path, tmp_path: Path) -> None:
    key = key_in(data_dir)
    reservation = reserved_port()
    port = int(reservation.getsockname()[1])
    manage("migrate", "-v0", DATA_DIR=str(data_dir))
    variables = {"DATA_DIR": str(data_dir), "ENVIRONMENT": "local"}
    gunicorn = subprocess.Popen(
        [
            *(Path(sys.executable).parent / "gunicorn", "config.wsgi"),
            *("--bind", f"127.0.0.1:{port}", "--worker-class", "gthread"),
            "--no-control-socket",
        ],
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    call = Caller(port, key)

    def is_up() -> bool:
        with suppress(OSError, IndexError):
            return bool(call("GET", "/healthz")[0] == 200)
        return False

    try:
        wait_for(is_up)
        refuses_what_came_twice(call)
        answers_head_without_a_body(call)
    finally:
        os.killpg(gunicorn.pid, signal.SIGTERM)
        gunicorn.wait(PATIENCE_SECONDS)
        reservation.close()
