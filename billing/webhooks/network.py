"""Which addresses webhooks may go to, and how one attempt is made. Touches no database.

A person who registers an endpoint chooses where this machine connects to. So the name is resolved
here, each of its addresses is checked, and the connection goes to a checked address. A name that
resolves to another address a moment later changes nothing. TLS checks the certificate by the name.

urllib3's connection speaks HTTP, without its pool: the pool does redirects, retries and proxies,
and none of these may happen here.
"""

import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from http.client import BadStatusLine, HTTPException, HTTPResponse, UnknownProtocol
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import certifi
from django.conf import settings
from django.core.exceptions import ValidationError
from urllib3.connection import HTTPConnection
from urllib3.exceptions import HeaderParsingError, HTTPError
from urllib3.util.response import assert_header_parsing

from users.texts import readable

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

CONNECT_SECONDS: Final = 5.0
# For the whole attempt, also if the receiver answers one byte at a time.
ATTEMPT_SECONDS: Final = 10.0
# For the rest of the answer. Its status says whether the message was accepted.
ANSWER_SECONDS: Final = 2.0
# At most this much is read of one answer, with its headers and hints (1xx).
READ_BYTES: Final = 100_000
ANSWER_BYTES: Final = 4096
ANSWER_LENGTH: Final = 500
PROBLEM_LENGTH: Final = 200
KEEP_ALIVE_SECONDS: Final = 5.0
# A number, or the same number several times.
ONE_LENGTH: Final = re.compile(r"([0-9]{1,19})(\s*,\s*\1)*")

# Statuses which mean that the endpoint takes nothing now, not that it refused this message.
OUT_OF_REACH: Final = frozenset({408, 429, 502, 503, 504})

IPV6_UNICAST: Final = IPv6Network("2000::/3")
# IPv6 addresses that contain an IPv4 address, and lead to it.
IPV6_TO_IPV4: Final = IPv6Network("2002::/16")
IPV4_BY_NAT64: Final = IPv6Network("64:ff9b::/96")


class NotAllowed(Exception):
    """Webhooks may not go to this address. The message is a sentence that says why."""


class NotResolved(Exception):
    """The name cannot be resolved."""


class NotConnected(Exception):
    """No address of the name can be connected to. The message is a sentence that says why."""


class OutOfTime(Exception):
    """The time of the attempt is used up."""


@dataclass(frozen=True)
class Reply:
    """The result of one attempt. `problem` says why it failed, and is empty if it did not."""

    at: datetime
    milliseconds: int
    status_code: int | None = None
    problem: str = ""
    beginning: str = ""

    @property
    def is_delivered(self) -> bool:
        return not self.problem

    @property
    def is_out_of_reach(self) -> bool:
        """True if the endpoint, not the message, caused the failure."""
        return not self.is_delivered and (
            self.status_code is None or self.status_code in OUT_OF_REACH
        )


# --- Where they may go --------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Raises ValidationError if webhooks may not be sent to this URL, as far as is known now.

    A name that cannot be resolved yet is accepted, except with http://, which is allowed in private
    networks only.
    """
    try:
        parts, port = _parsed(url)
        host = parts.hostname or ""
        try:
            addresses = resolve(host, port, CONNECT_SECONDS)
        except NotResolved as problem:
            if parts.scheme == "http":
                raise NotAllowed(
                    f"{problem} An address with http:// has to be resolvable."
                ) from None
            return
        _refuse_others(host, addresses, private_only=parts.scheme == "http")
    except NotAllowed as problem:
        raise ValidationError(str(problem), code="invalid_url") from None


def _parsed(url: str) -> tuple[SplitResult, int]:
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise NotAllowed(
            "An address has no spaces and no letters other than a to z. Write a name in another "
            "alphabet as xn--…, and other characters percent-encoded."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise NotAllowed("This is not a web address.") from None
    if parts.scheme not in ("http", "https"):
        raise NotAllowed("The address must begin with https://.")
    if not parts.hostname or port == 0 or "\\" in url:
        raise NotAllowed("This is not a web address.")
    if "@" in parts.netloc:
        raise NotAllowed(
            "The address must not contain a user name or password. The signature proves who sends."
        )
    if "#" in url:
        raise NotAllowed("The address must not have a part after #, because that is never sent.")
    return parts, port or (443 if parts.scheme == "https" else 80)


def _refuse_others(host: str, addresses: Iterable[Address], *, private_only: bool) -> None:
    """Raises NotAllowed unless webhooks may go to all addresses of a name."""
    for address in addresses:
        if _is_allowed_by_setting(address):
            continue
        where = f"{address}" if host == str(address) else f"{host} is {address}, which"
        if private_only:
            raise NotAllowed(
                f"{where} is not in WEBHOOK_PRIVATE_NETWORKS; only there may the address "
                "begin with http://. Use https://."
            )
        if not is_public(address):
            raise NotAllowed(
                f"{where} is neither a public address nor in WEBHOOK_PRIVATE_NETWORKS."
            )


def _is_allowed_by_setting(address: Address) -> bool:
    address = _meant(address)
    return any(address in network for network in settings.WEBHOOK_PRIVATE_NETWORKS)


def is_public(address: Address) -> bool:
    """Returns whether an address is a public one on the Internet, in any notation."""
    address = _meant(address)
    if isinstance(address, IPv6Address):
        if address in IPV4_BY_NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in IPV6_UNICAST or address in IPV6_TO_IPV4:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> Address:
    """Returns the address that another one contains: ::ffff:10.0.0.1 is 10.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address


def resolve(host: str, port: int, timeout: float) -> list[Address]:
    """Returns all addresses of a name, in the order to try them. Raises NotResolved.

    Asks in a thread of its own: nothing else ends a query to a name server that does not answer.
    """
    found: list[Address] = []
    problems: list[str] = []

    def ask() -> None:
        try:
            for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append(ip_address(place[0]))
        except (OSError, ValueError) as problem:  # ValueError: not a valid name
            problems.append(str(getattr(problem, "strerror", None) or problem))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise NotResolved(f"The name {host} was not resolved in time.")
    if problems or not found:
        why = problems[0] if problems else "no address"
        raise NotResolved(f"The name {host} cannot be resolved: {why}.")
    return list(dict.fromkeys(found))


# --- One attempt --------------------------------------------------------------------------------


class _Attempt(threading.local):
    """The time and bytes left for an attempt, per thread: a connection outlives its attempts."""

    deadline = 0.0
    is_in_head = False
    bytes_read = 0

    def seconds_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left


_attempt: Final = _Attempt()


class _Socket(socket.socket):
    """A socket that gives up when the attempt's time is over, also if data keeps trickling in."""

    def recv_into(self, *arguments: Any, **options: Any) -> int:
        if _attempt.bytes_read > READ_BYTES:
            raise ConnectionError("The answer is too long.")
        count: int = self._in_time(super().recv_into, *arguments, **options)
        if _attempt.is_in_head and not count:
            # http.client would take the end of the connection as the end of the headers.
            raise ConnectionError("Server disconnected without sending a response.")
        _attempt.bytes_read += count
        return count

    def sendall(self, *arguments: Any, **options: Any) -> None:
        self._in_time(super().sendall, *arguments, **options)

    def send(self, *arguments: Any, **options: Any) -> int:
        """Sends all data. sendall() of TLS would apply the time limit to each part separately."""
        return int(self._in_time(super().send, *arguments, **options))

    def _in_time(self, do: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self.settimeout(_attempt.seconds_left())
        try:
            return do(*arguments, **options)
        except TimeoutError:
            raise OutOfTime from None


class _SecureSocket(_Socket, ssl.SSLSocket):
    """The same, over TLS."""


class _Response(HTTPResponse):
    """An answer, without the hints (1xx) that may precede it. Raises if it is not valid HTTP."""

    def begin(self, **options: Any) -> None:
        super().begin(**options)
        # http.client skips 100 only.
        while 100 <= self.status < 200 and self.status != 101:
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin(**options)
        self._check()

    def _check(self) -> None:
        """Raises if the answer contradicts itself, which http.client accepts."""
        assert_header_parsing(self.headers)
        if self.status == 101:
            raise HTTPException("it switched to another protocol")  # nobody asked for it
        if "transfer-encoding" in self.headers:
            if not self.chunked:
                raise HTTPException("Only Transfer-Encoding: chunked is supported")
            del self.headers["content-length"]  # it does not count then
        lengths = ",".join(self.headers.get_all("content-length", []))
        if lengths and not ONE_LENGTH.fullmatch(lengths):
            raise HTTPException("bad Content-Length")


class _Connection(HTTPConnection):
    """A connection that goes only to addresses that webhooks may go to."""

    response_class = _Response

    def __init__(self, host: str, port: int, *, is_secure: bool) -> None:
        super().__init__(host, port)
        self.name = host
        self.is_secure = is_secure

    def connect(self) -> None:
        end = time.monotonic() + min(CONNECT_SECONDS, _attempt.seconds_left())
        addresses = resolve(self.name, self.port, end - time.monotonic())
        _refuse_others(self.name, addresses, private_only=not self.is_secure)
        try:
            connected = _first_that_answers(addresses, self.port, end)
            self.sock = _over_tls(connected, self.host) if self.is_secure else connected
        except TimeoutError:
            raise NotConnected(f"No connection within {CONNECT_SECONDS:.0f} seconds.") from None
        except ssl.SSLCertVerificationError as problem:
            reason = problem.verify_message.rstrip(".")
            raise NotConnected(f"Its certificate is not trusted: {reason}.") from None
        except OSError as problem:
            raise NotConnected(f"No connection: {problem}.") from None


def _first_that_answers(addresses: Sequence[Address], port: int, end: float) -> _Socket:
    for place, address in enumerate(addresses, start=1):
        # An address that does not answer leaves time for the next ones.
        share = (end - time.monotonic()) / (len(addresses) - place + 1)
        try:
            connected = socket.create_connection((str(address), port), max(share, 0.01))
        except OSError:
            if place == len(addresses):
                raise
        else:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _Socket(fileno=connected.detach())
    raise NotResolved("It has no address.")


def _over_tls(connected: _Socket, name: str) -> ssl.SSLSocket:
    """Does the handshake. Closes the connection if the certificate is not valid for the name."""
    context = trusted()
    context.sslsocket_class = _SecureSocket
    try:
        connected.settimeout(min(CONNECT_SECONDS, _attempt.seconds_left()))
        return context.wrap_socket(connected, server_hostname=name)
    except BaseException:
        connected.close()
        raise


@cache
def trusted() -> ssl.SSLContext:
    """Returns a context that trusts the machine's certificate authorities and certifi's."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    context.set_alpn_protocols(["http/1.1"])
    return context


class EndpointConnection:
    """A connection to one URL, for one thread at a time, kept open between events."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection: _Connection | None = None
        self._is_kept_until = 0.0

    def __enter__(self) -> "EndpointConnection":
        return self

    def __exit__(self, *error: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def post(
        self,
        body: bytes,
        headers: Callable[[datetime], Mapping[str, str]],
        clock: Callable[[], datetime],
    ) -> Reply:
        """Makes one attempt. Never raises: `problem` of the reply says what went wrong."""
        at, began = clock(), time.monotonic()
        _attempt.deadline = began + ATTEMPT_SECONDS
        status_code, beginning, problem = None, b"", ""
        try:
            status_code, beginning = self._exchange(body, headers(at))
            problem = _problem_of_status(status_code)
        except Exception as error:  # of many kinds; none may end the thread
            problem = _in_words(error)
        return Reply(
            at=at,
            milliseconds=round((time.monotonic() - began) * 1000),
            status_code=status_code,
            problem=readable(problem)[:PROBLEM_LENGTH],
            beginning=_readable(beginning),
        )

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        parts, port = _parsed(self.url)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        all_headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "Billing-Webhooks/1",
            "Accept-Encoding": "identity",
            **headers,
        }
        for name, value in all_headers.items():
            # urllib3 accepts a line break that is followed by a space.
            if not (value.isascii() and value.isprintable()):
                raise ValueError(f"The header {name} has a character that is not allowed")
        if self._connection is None:
            is_secure = parts.scheme == "https"
            self._connection = _Connection(parts.hostname or "", port, is_secure=is_secure)
        is_kept = self._connection.is_connected and time.monotonic() < self._is_kept_until
        if not is_kept:
            self._connection.close()
        try:
            return self._request(self._connection, target, all_headers, body)
        except (OSError, HTTPException, HTTPError):
            if not is_kept:
                raise
        # The receiver may close a connection that was kept open.
        return self._request(self._connection, target, all_headers, body)

    def _request(
        self, connection: _Connection, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        is_whole, beginning = False, b""
        try:
            if connection.is_closed:
                connection.connect()
            _attempt.is_in_head, _attempt.bytes_read = True, 0
            # A receiver may refuse a message without reading all of it.
            with suppress(OSError):
                connection.request("POST", target, body, headers, preload_content=False)
            with connection.getresponse() as response:
                _attempt.is_in_head = False
                _attempt.deadline = min(_attempt.deadline, time.monotonic() + ANSWER_SECONDS)
                # An answer that was not read completely still has its status.
                with suppress(HTTPError, OutOfTime):
                    while len(beginning) <= ANSWER_BYTES and not is_whole:
                        part = response.read1(ANSWER_BYTES, decode_content=False)
                        beginning += part
                        is_whole = not part
        finally:
            if not is_whole:
                connection.close()
        self._is_kept_until = time.monotonic() + KEEP_ALIVE_SECONDS
        return response.status, beginning


def _problem_of_status(status_code: int) -> str:
    if 200 <= status_code < 300:
        return ""
    if 300 <= status_code < 400:
        return f"It answered {status_code}; redirects are not followed."
    return f"It answered {status_code}."


def _in_words(error: Exception) -> str:
    match error:
        case NotAllowed() | NotResolved() | NotConnected():
            words = str(error)
        case OutOfTime():
            words = f"No answer within {ATTEMPT_SECONDS:.0f} seconds."
        case OSError() | HTTPException() | HTTPError():
            words = f"The connection was lost: {_reason(error)}."
        case _:
            log.error("A webhook could not be sent.", exc_info=error)
            words = f"It could not be sent: {type(error).__name__}: {error}."
    return words


def _reason(error: Exception) -> str:
    said = str(error).strip().rstrip(".")
    match error:
        case BadStatusLine() | UnknownProtocol():
            return f"illegal status line: {said!r}"
        case HeaderParsingError():
            return "illegal header line"
        case _:
            return said or type(error).__name__


def _readable(beginning: bytes) -> str:
    text = beginning.decode(errors="replace")
    return " ".join(readable(text).split())[:ANSWER_LENGTH]
