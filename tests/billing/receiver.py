"""A real HTTP server that receives webhooks, and answers each as the test tells it."""

import base64
import hashlib
import hmac
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from billing.webhooks import network

PATIENCE_SECONDS = 60


@dataclass
class Message:
    """A webhook that was received."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def content(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    @property
    def user(self) -> int:
        return int(self.content["user_id"])

    @property
    def number(self) -> int:
        return int(self.content["data"]["transaction"]["number"])


Behaviour = Callable[["Handler", Message], None]


def answers(status: int, text: str = "", **headers: str) -> Behaviour:
    def behave(handler: "Handler", message: Message) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(text.encode())))
        handler.end_headers()
        handler.wfile.write(text.encode())

    return behave


def hangs(handler: "Handler", message: Message) -> None:
    """Answers nothing, and waits until the sender gives up."""
    handler.close_connection = True
    handler.connection.settimeout(PATIENCE_SECONDS)
    with suppress(OSError):
        handler.connection.recv(1)


def drips(handler: "Handler", message: Message) -> None:
    """Sends an endless header byte by byte. A time limit for a single read never ends it."""
    handler.close_connection = True
    try:
        handler.connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not handler.receiver.is_closed.wait(0.02):
            handler.connection.sendall(b"x")
    except OSError:
        pass


def answers_and_drips(handler: "Handler", message: Message) -> None:
    """Accepts the message, and sends the body of its answer so slowly that it never ends."""
    handler.close_connection = True
    try:
        handler.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while not handler.receiver.is_closed.wait(0.02):
            handler.connection.sendall(b"x")
    except OSError:
        pass


def resets(handler: "Handler", message: Message) -> None:
    handler.close_connection = True
    linger = struct.pack("ii", 1, 0)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()


def talks_nonsense(handler: "Handler", message: Message) -> None:
    handler.close_connection = True
    handler.wfile.write(b"220 mail.example.com ESMTP\r\n\r\n")


OK = answers(204)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    receiver: "Receiver"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        message = Message(self.path, headers, body)
        self.receiver.take(self, message)

    def setup(self) -> None:
        super().setup()
        with self.receiver.lock:
            self.receiver.connection_count += 1

    def log_message(self, *arguments: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the sender gave up waiting


@dataclass
class Receiver:
    """Runs the server in a `with` block. `behave` answers; a test may replace it at any time."""

    behave: Behaviour = OK
    certificate: ssl.SSLContext | None = None
    host: str = "127.0.0.1"
    messages: list[Message] = field(default_factory=list)
    connection_count: int = 0
    at_once: int = 0
    at_once_max: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Receiver":
        handler = type("OwnHandler", (Handler,), {"receiver": self})
        self.server = _Server((self.host, 0), handler)
        if self.certificate is not None:
            self.server.socket = self.certificate.wrap_socket(self.server.socket, server_side=True)
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, args=[0.02], daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.is_closed.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://{self.host}:{self.port}/hooks?of=billing"

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]

    def take(self, handler: Handler, message: Message) -> None:
        with self.lock:
            self.messages.append(message)
            self.at_once += 1
            self.at_once_max = max(self.at_once_max, self.at_once)
        try:
            self.behave(handler, message)
        finally:
            with self.lock:
                self.at_once -= 1


@contextmanager
def impatience(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the sender give up 0.3 seconds after the message arrives. Arriving may take longer."""
    behave, is_there, read = receiver.behave, threading.Event(), network._Socket.recv_into

    def take(handler: Handler, message: Message) -> None:
        is_there.set()
        behave(handler, message)

    def read_impatiently(connected: Any, *arguments: Any, **options: Any) -> int:
        is_there.wait(PATIENCE_SECONDS)
        network._attempt.deadline = min(network._attempt.deadline, time.monotonic() + 0.3)
        return read(connected, *arguments, **options)

    receiver.behave = take
    with monkeypatch.context() as patched:
        patched.setattr(network._Socket, "recv_into", read_impatiently)
        yield


def is_signed(message: Message, secret: str) -> bool:
    """Checks the signature by the Standard Webhooks specification, without code of the panel."""
    key = base64.b64decode(secret[len("whsec_") :])
    timestamp = message.headers["webhook-timestamp"]
    content = b".".join([message.id.encode(), timestamp.encode(), message.body])
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return any(
        version == "v1" and hmac.compare_digest(signature, expected)
        for version, _, signature in (
            each.partition(",") for each in message.headers["webhook-signature"].split(" ")
        )
    )
