"""Answers of receivers, including hostile ones: no answer costs much time or memory."""

import gzip
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import pytest

from billing.webhooks import network
from billing.webhooks.network import EndpointConnection, Reply
from tests.billing import receiver as behaviour
from tests.billing.receiver import OK, Behaviour, Handler, Message, Receiver, answers
from tests.billing.test_webhook_network import look_up

BODY = b'{"data": {}}'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
CLOSED = "The connection was lost: Server disconnected without sending a response."


@pytest.fixture(autouse=True)
def this_machine_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_PRIVATE_NETWORKS = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def line(receiver: Receiver) -> Iterator[EndpointConnection]:
    with EndpointConnection(receiver.url) as line:
        yield line


def send(line: EndpointConnection, body: bytes = BODY, **headers: str) -> Reply:
    return line.post(body, lambda at: headers, lambda: datetime.now(UTC))


def says(*parts: bytes, closes: bool = True) -> Behaviour:
    """Answers with exactly these bytes."""

    def behave(handler: Handler, message: Message) -> None:
        handler.close_connection = closes
        for part in parts:
            handler.connection.sendall(part)

    return behave


def says_endlessly(beginning: bytes, part: bytes) -> Behaviour:
    def behave(handler: Handler, message: Message) -> None:
        handler.close_connection = True
        try:
            handler.connection.sendall(beginning)
            while not handler.receiver.is_closed.is_set():
                handler.connection.sendall(part)
        except OSError:
            pass

    return behave


def says_and_resets(beginning: bytes) -> Behaviour:
    def behave(handler: Handler, message: Message) -> None:
        handler.connection.sendall(beginning)
        behaviour.resets(handler, message)

    return behave


# --- Valid answers ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "beginning"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\ntaken", "taken"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\ntaken", "taken"),
        (b"HTTP/1.1 200 OK\r\n\r\ntaken", "taken"),
        (b"HTTP/1.1 200\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\nContent-Length: 5\n\ntaken", "taken"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ntaken", "taken"),
        (
            CHUNKED + b"\r\n5;a=b\r\ntaken\r\n0\r\n\r\n",
            "taken",
        ),
        (CHUNKED + b"\r\n5\r\ntaken\r\nnonsense", "taken"),
        (
            CHUNKED + b"Content-Length: 2\r\n\r\n5\r\ntaken\r\n0\r\n\r\n",
            "taken",
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\ntaken", "taken"),
        (
            b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\nX: y\r\n\r\n"
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken",
            "taken",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", ""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\ntaken", "taken"),
        (b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 5\r\n\r\ntaken", "taken"),
    ],
    ids=[
        "HTTP/1.0",
        "HTTP/1.0 with a length",
        "without a length",
        "without a reason",
        "bare line ends",
        "ends too early",
        "in chunks",
        "in chunks that break off",
        "with two lengths",
        "after 100",
        "after 102, 100 and 103",
        "empty",
        "a length said twice",
        "folded header",
    ],
)
def test_an_answer_may_come_in_many_forms(
    receiver: Receiver,
    line: EndpointConnection,
    answer: bytes,
    beginning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receiver.behave = says(answer)
    got = send(line)
    assert (got.problem, got.beginning) == ("", beginning)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


def test_a_reset_in_the_middle_of_an_answer_changes_nothing_about_its_status(
    receiver: Receiver, line: EndpointConnection
) -> None:
    receiver.behave = says_and_resets(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntaken")
    assert send(line).is_delivered
    receiver.behave = says_and_resets(b"HTTP/1.1 503 Away\r\nContent-Length: 100\r\n\r\nlater")
    assert send(line).problem == "It answered 503."


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        (b"\r\n", b"x" * 4096),
        (b"Content-Length: 999999999999\r\n\r\n", b"x" * 4096),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\nfffffffffff\r\n", b"x" * 4096),
        (b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n", b"1;" + b"x" * 60_000 + b"\r\nx\r\n"),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n", b"X-Trailer: x\r\n"),
    ],
    ids=[
        "without a length",
        "with a length",
        "in chunks",
        "in one chunk",
        "in small chunks",
        "in chunks with much about each",
        "with a trailer",
    ],
)
def test_of_an_endless_answer_the_beginning_is_kept(
    receiver: Receiver, line: EndpointConnection, beginning: bytes, part: bytes
) -> None:
    receiver.behave = says_endlessly(b"HTTP/1.1 200 OK\r\n" + beginning, part)
    answer = send(line)
    assert answer.is_delivered
    assert set(answer.beginning) == {"x"}
    assert len(answer.beginning) <= network.ANSWER_LENGTH


def test_a_compressed_answer_is_not_unpacked(receiver: Receiver, line: EndpointConnection) -> None:
    """No compressed answer was requested, and unpacking a small one may need much memory."""
    packed = gzip.compress(b"x" * 1_000_000)
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    receiver.behave = says(head % len(packed), packed)
    answer = send(line)
    assert answer.is_delivered
    assert "xxx" not in answer.beginning
    assert receiver.messages[0].headers["accept-encoding"] == "identity"


# --- Failed answers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", CLOSED),
        (b"HTTP/1.1 200", CLOSED),
        (b"HTTP/1.1 200 OK\r\n", CLOSED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Half", CLOSED),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", CLOSED),
        (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            "The connection was lost: it switched to another protocol",
        ),
        (b"HTTP/1.1 302 Found\r\n\r\n", "It answered 302; redirects are not followed."),
        (b"220 mail.example.com ESMTP\r\n\r\n", "The connection was lost: illegal status line"),
        (b"HTTP/2 200 OK\r\n\r\n", "The connection was lost: illegal status line"),
        (b"HTTP/\0 200 OK\r\n\r\n", "The connection was lost: illegal status line"),
        (b"HTTP/1.1 20 OK\r\n\r\n", "The connection was lost: illegal status line"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "The connection was lost: illegal status line"),
        (b"\0\0\0\0\r\n\r\n", "The connection was lost: illegal status line"),
        (
            b"HTTP/1.1 200 OK\r\nnonsense\r\nX: y\r\n\r\n",
            "The connection was lost: illegal header line",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "The connection was lost: bad Content-Length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "The connection was lost: bad Content-Length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n" % (b"9" * 5000),
            "The connection was lost: bad Content-Length",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "The connection was lost: Only Transfer-Encoding: chunked is supported",
        ),
    ],
    ids=[
        "nothing",
        "half a status line",
        "no header",
        "half a header",
        "a hint alone",
        "another protocol",
        "a redirect",
        "a mail server",
        "HTTP/2",
        "a version with a null byte",
        "a status of two digits",
        "a status that is no number",
        "null bytes",
        "a header that is none",
        "two lengths",
        "a negative length",
        "an endless length",
        "packed in chunks",
    ],
)
def test_what_is_no_answer_is_a_failure(
    receiver: Receiver, line: EndpointConnection, answer: bytes, problem: str
) -> None:
    receiver.behave = says(answer)
    got = send(line)
    assert got.problem.startswith(problem)
    assert got.problem.endswith(".")
    assert got.problem.isprintable()
    assert len(receiver.messages) == 1


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 4096),
        (b"HTTP/1.1 200 OK\r\n", b"X: " + b"x" * 20_000 + b"\r\n"),
        (b"HTTP/1.1 200 ", b"x" * 4096),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
    ],
    ids=["one header", "many headers", "the status line", "100 again and again", "hints"],
)
def test_an_answer_whose_headers_never_end_is_given_up(
    receiver: Receiver, line: EndpointConnection, beginning: bytes, part: bytes
) -> None:
    """It is given up because of its length, long before the time limit."""
    receiver.behave = says_endlessly(beginning, part)
    answer = send(line)
    assert answer.status_code is None
    assert answer.problem.startswith("The connection was lost: ")
    assert len(receiver.messages) == 1


def test_redirects_are_not_followed(receiver: Receiver, line: EndpointConnection) -> None:
    with Receiver() as other:
        for status in (301, 302, 303, 307, 308):
            receiver.behave = answers(status, Location=other.url)
            expected = f"It answered {status}; redirects are not followed."
            assert send(line).problem == expected
        assert other.connection_count == 0


def test_a_receiver_that_reads_nothing_does_not_hold_a_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(network, "ATTEMPT_SECONDS", 0.5)
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        EndpointConnection(f"http://127.0.0.1:{deaf.getsockname()[1]}/") as line,
    ):
        answer = send(line, b"x" * 50_000_000)
    assert answer.problem
    assert answer.is_out_of_reach


def test_an_answer_may_come_before_the_message_is_there(
    receiver: Receiver, line: EndpointConnection
) -> None:
    """The receiver may find the message too long, answer, and close the connection."""

    def refuse(self: Handler) -> None:
        self.close_connection = True
        self.connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    receiver.server.RequestHandlerClass.do_POST = refuse  # type: ignore[attr-defined]
    problem = send(line, b"x" * 20_000_000).problem
    # Its answer may be lost on the way, but nothing else comes of it.
    assert problem == "It answered 413." or problem.startswith("The connection was lost: ")


# --- Requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "target", ["/", "/a//b", "/{a}|b^c?x=%2f&y=%41&z='\"<>`", "/a/../b/./c", "/?", "/x?a=b?c=d"]
)
def test_an_address_is_used_as_it_was_written(receiver: Receiver, target: str) -> None:
    with EndpointConnection(f"http://127.0.0.1:{receiver.port}{target}") as line:
        assert send(line).is_delivered
    assert receiver.messages[0].path == (target if target != "/?" else "/")


def test_a_message_says_what_it_is_and_how_long(
    receiver: Receiver, line: EndpointConnection
) -> None:
    assert send(line, **{"webhook-id": "a"}).is_delivered
    [message] = receiver.messages
    assert message.body == BODY
    assert message.headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-length": str(len(BODY)),
        "content-type": "application/json",
        "user-agent": "Billing-Webhooks/1",
        "accept-encoding": "identity",
        "webhook-id": "a",
    }


@pytest.mark.parametrize("value", ["a\r\nX-Other: b", "a\nb", "a\r\n b", "a\rb", "a\0b", "ä"])
def test_no_header_can_be_smuggled_in(
    receiver: Receiver, line: EndpointConnection, value: str
) -> None:
    assert send(line, **{"webhook-id": value}).problem.startswith("It could not be sent: ")
    assert not receiver.messages


@pytest.mark.parametrize(
    "host", ["crm.example.com", "CRM.Example.com", "xn--bcher-kva.example", "[2606:2800:220:1::1]"]
)
def test_the_host_is_named_as_it_was_written(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    names = {host.lower().strip("[]"): ["127.0.0.1"]}
    monkeypatch.setattr(socket, "getaddrinfo", look_up(names))
    with EndpointConnection(f"http://{host}:{receiver.port}/") as line:
        assert send(line).is_delivered
    assert receiver.messages[0].headers["host"] == f"{host}:{receiver.port}"


# --- Connections that are kept ------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken",
        b"HTTP/1.1 500 Ouch\r\nContent-Length: 0\r\n\r\n",
        CHUNKED + b"\r\n5\r\ntaken\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_after_a_whole_answer_the_connection_is_used_again(
    receiver: Receiver, line: EndpointConnection, answer: bytes
) -> None:
    receiver.behave = says(answer, closes=False)
    assert send(line).beginning == send(line).beginning
    assert len(receiver.messages) == 2
    assert receiver.connection_count == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"x" * 5000,
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["long", "last", "HTTP/1.0"],
)
def test_after_other_answers_a_new_one_is_opened(
    receiver: Receiver, line: EndpointConnection, answer: bytes
) -> None:
    receiver.behave = says(answer, closes=False)
    assert send(line).is_delivered
    receiver.behave = OK
    assert send(line).is_delivered
    assert receiver.connection_count == len(receiver.messages) == 2


def test_a_connection_that_the_receiver_closed_meanwhile_is_opened_again(
    receiver: Receiver, line: EndpointConnection
) -> None:
    closed = threading.Event()

    def answer_and_close(handler: Handler, message: Message) -> None:
        handler.close_connection = True
        OK(handler, message)
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    receiver.behave = answer_and_close
    assert send(line).is_delivered
    closed.wait(behaviour.PATIENCE_SECONDS)
    assert send(line).is_delivered
    assert receiver.connection_count == len(receiver.messages) == 2


def test_a_connection_is_not_kept_for_long(
    receiver: Receiver, line: EndpointConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "KEEP_ALIVE_SECONDS", -1)
    assert send(line).is_delivered
    assert send(line).is_delivered
    assert receiver.connection_count == 2


def test_a_name_is_judged_again_when_its_connection_is_opened_again(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    names = {"crm.example.com": ["127.0.0.1"]}
    monkeypatch.setattr(socket, "getaddrinfo", look_up(names))
    receiver.behave = says(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    with EndpointConnection(f"http://crm.example.com:{receiver.port}/") as line:
        assert send(line).is_delivered
        settings.WEBHOOK_PRIVATE_NETWORKS = (ip_network("127.0.0.1/32"),)
        names["crm.example.com"] = ["127.0.0.2"]
        assert "crm.example.com is 127.0.0.2, which is not in" in send(line).problem
    assert receiver.connection_count == 1
