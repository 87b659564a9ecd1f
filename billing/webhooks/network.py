"""Where webhooks may go, and how one attempt gets there, and no further. Touches no database.

Whoever registers an endpoint chooses where this machine connects to. So a name is resolved here,
each address it has is judged, and the connection goes to an address that was judged: a name that
means another address a moment later changes nothing. Redirects are not followed, and no proxy of
the environment is used. TLS checks the certificate against the name as ever.
"""

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import certifi
import httpcore
from django.conf import settings
from django.core.exceptions import ValidationError

from users.texts import readable

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address

CONNECT_SECONDS: Final = 5.0
# One attempt in all, with a receiver that answers a byte at a time too.
ATTEMPT_SECONDS: Final = 10.0
# The status says how it went; for what stands below it nobody waits long.
ANSWER_SECONDS: Final = 2.0
ANSWER_BYTES: Final = 4096
ANSWER_LENGTH: Final = 500
PROBLEM_LENGTH: Final = 200
KEEP_ALIVE_SECONDS: Final = 5.0
WRITE_BYTES: Final = 16_384

# What says that nobody is there to take anything, unlike a refusal of what was sent.
OUT_OF_REACH: Final = frozenset({408, 429, 502, 503, 504})

IPV6_UNICAST: Final = IPv6Network("2000::/3")
# Addresses that carry an IPv4 address, which is where they lead.
IPV6_TO_IPV4: Final = IPv6Network("2002::/16")
IPV4_BY_NAT64: Final = IPv6Network("64:ff9b::/96")


class NotAllowed(Exception):
    """Webhooks do not go there. Says why, as a sentence."""


class NotResolved(Exception):
    """Nobody knows the address of this name."""


class OutOfTime(Exception):
    """The attempt has taken all its time."""


@dataclass(frozen=True)
class Answer:
    """What came of one attempt. `problem` says why it failed; empty if it did not."""

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
        """Whether what failed is the endpoint, whatever had been sent."""
        return not self.is_delivered and (
            self.status_code is None or self.status_code in OUT_OF_REACH
        )


# --- Where they may go --------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Raises ValidationError unless webhooks may be sent there, as far as can be told now.

    A name that cannot be resolved yet is fine, but for http://, which is for private networks only.
    """
    try:
        parts, port = _parsed(url)
        host = parts.hostname or ""
        try:
            addresses = resolve(host, port, CONNECT_SECONDS)
        except NotResolved as problem:
            if parts.scheme == "http":
                raise NotAllowed(f"{problem} An address with http:// has to be known.") from None
            return
        _refuse_others(host, addresses, private_only=parts.scheme == "http")
    except NotAllowed as problem:
        raise ValidationError(str(problem), code="invalid_url") from None


def _parsed(url: str) -> tuple[SplitResult, int]:
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise NotAllowed(
            "An address has neither spaces nor letters beyond a to z. Write a name in another "
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
            "The address must not have a user name or password in it. Check the signature instead."
        )
    if "#" in url:
        raise NotAllowed("The address must not have a part after #, which is never sent.")
    return parts, port or (443 if parts.scheme == "https" else 80)


def _refuse_others(host: str, addresses: Iterable[Address], *, private_only: bool) -> None:
    """Raises NotAllowed unless all of a name's addresses may be connected to."""
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
            raise NotAllowed(f"{where} is not a public address, nor in WEBHOOK_PRIVATE_NETWORKS.")


def _is_allowed_by_setting(address: Address) -> bool:
    address = _meant(address)
    return any(address in network for network in settings.WEBHOOK_PRIVATE_NETWORKS)


def is_public(address: Address) -> bool:
    """Whether an address is somebody's on the Internet, however it is written."""
    address = _meant(address)
    if isinstance(address, IPv6Address):
        if address in IPV4_BY_NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        if address not in IPV6_UNICAST or address in IPV6_TO_IPV4:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _meant(address: Address) -> Address:
    """::ffff:10.0.0.1 is 10.0.0.1."""
    return getattr(address, "ipv4_mapped", None) or address


def resolve(host: str, port: int, timeout: float) -> list[Address]:
    """All addresses of a name, in the order to be tried. Raises NotResolved.

    In a thread of its own, because nothing else ends a question to a name server that is silent.
    """
    found: list[Address] = []
    problems: list[str] = []

    def ask() -> None:
        try:
            for *_, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
                found.append(ip_address(place[0]))
        except (OSError, ValueError) as problem:  # a name that is none is a ValueError
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
    """What the present attempt of a thread may take: its connection may be of an earlier one."""

    deadline = 0.0
    has_connected = False

    def seconds_left(self) -> float:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise OutOfTime
        return left


_attempt: Final = _Attempt()


class _Stream(httpcore.NetworkStream):
    """A connection that is given up when the attempt's time is."""

    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self.inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.inner.read(max_bytes, _attempt.seconds_left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        for start in range(0, len(buffer), WRITE_BYTES):
            self.inner.write(buffer[start : start + WRITE_BYTES], _attempt.seconds_left())

    def close(self) -> None:
        self.inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = min(CONNECT_SECONDS, _attempt.seconds_left())
        return _Stream(self.inner.start_tls(ssl_context, server_hostname, seconds))

    def get_extra_info(self, info: str) -> Any:
        return self.inner.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    """Connects to where webhooks may go, and to nowhere else."""

    def __init__(self, *, private_only: bool) -> None:
        self.private_only = private_only
        self.plain = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        _attempt.has_connected = True
        end = time.monotonic() + min(CONNECT_SECONDS, _attempt.seconds_left())
        addresses = resolve(host, port, end - time.monotonic())
        _refuse_others(host, addresses, private_only=self.private_only)
        return _Stream(self._first_that_answers(addresses, port, end))

    def _first_that_answers(
        self, addresses: Sequence[Address], port: int, end: float
    ) -> httpcore.NetworkStream:
        for place, address in enumerate(addresses, start=1):
            # A silent one leaves time for those after it.
            share = (end - time.monotonic()) / (len(addresses) - place + 1)
            try:
                return self.plain.connect_tcp(str(address), port, timeout=max(share, 0.01))
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(addresses):
                    raise
        raise NotResolved("It has no address.")


@cache
def trusted() -> ssl.SSLContext:
    """The machine's certificate authorities, with those that come with the panel."""
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


class Line:
    """A connection to one address, for one thread at a time, kept from one event to the next."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._pool = httpcore.ConnectionPool(
            ssl_context=trusted(),
            max_connections=1,
            keepalive_expiry=KEEP_ALIVE_SECONDS,
            network_backend=_Network(private_only=url.startswith("http:")),
        )

    def __enter__(self) -> "Line":
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.close()

    def post(
        self,
        body: bytes,
        headers: Callable[[datetime], Mapping[str, str]],
        clock: Callable[[], datetime],
    ) -> Answer:
        """One attempt. Never raises: what went wrong is the answer's `problem`."""
        at, began = clock(), time.monotonic()
        _attempt.deadline = began + ATTEMPT_SECONDS
        status_code, beginning, problem = None, b"", ""
        try:
            status_code, beginning = self._exchange(body, headers(at))
            problem = _problem_of_status(status_code)
        except Exception as error:  # there are many, and none may end the thread
            problem = _in_words(error)
        return Answer(
            at=at,
            milliseconds=round((time.monotonic() - began) * 1000),
            status_code=status_code,
            problem=problem[:PROBLEM_LENGTH],
            beginning=_readable(beginning),
        )

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes]:
        parts, port = _parsed(self.url)
        url = httpcore.URL(
            scheme=parts.scheme,
            host=parts.hostname or "",
            port=port,
            target=(parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
        )
        all_headers = {
            "Host": parts.netloc,
            "Content-Type": "application/json",
            "User-Agent": "Billing-Webhooks/1",
            "Accept-Encoding": "identity",
            **headers,
        }
        try:
            _attempt.has_connected = False
            return self._request(url, all_headers, body)
        except (httpcore.RemoteProtocolError, httpcore.ReadError, httpcore.WriteError):
            if _attempt.has_connected:
                raise
        # The receiver closed a connection that it had kept until now, which is its right.
        return self._request(url, all_headers, body)

    def _request(
        self, url: httpcore.URL, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, bytes]:
        beginning = b""
        with self._pool.stream(
            "POST", url, headers=list(headers.items()), content=body
        ) as response:
            _attempt.deadline = min(_attempt.deadline, time.monotonic() + ANSWER_SECONDS)
            # That it was not read whole changes nothing about what it said.
            with suppress(
                httpcore.NetworkError,
                httpcore.ProtocolError,
                httpcore.TimeoutException,
                OutOfTime,
            ):
                for part in response.iter_stream():
                    beginning += part
                    if len(beginning) > ANSWER_BYTES:
                        break
        return response.status, beginning


def _problem_of_status(status_code: int) -> str:
    if 200 <= status_code < 300:
        return ""
    if 300 <= status_code < 400:
        return f"It answered {status_code}; redirects are not followed."
    return f"It answered {status_code}."


def _in_words(error: Exception) -> str:
    said = str(error.__cause__ or error).strip()
    match error:
        case NotAllowed() | NotResolved():
            words = said
        case OutOfTime() | httpcore.ReadTimeout() | httpcore.WriteTimeout():
            words = f"No answer within {ATTEMPT_SECONDS:.0f} seconds."
        case httpcore.ConnectTimeout():
            words = f"No connection within {CONNECT_SECONDS:.0f} seconds."
        case httpcore.ConnectError() if "CERTIFICATE_VERIFY_FAILED" in said:
            reason = said.partition("verify failed: ")[2].partition(" (_ssl")[0]
            words = f"Its certificate is not to be trusted: {reason.rstrip('.')}."
        case httpcore.ConnectError():
            words = f"No connection: {said}."
        case httpcore.RemoteProtocolError() | httpcore.ReadError() | httpcore.WriteError():
            words = f"The connection broke off: {said.rstrip('.')}."
        case _:
            log.error("A webhook could not be sent.", exc_info=error)
            words = f"It could not be sent: {type(error).__name__}: {said}."
    return words


def _readable(beginning: bytes) -> str:
    text = beginning.decode(errors="replace")
    return " ".join(readable(text).split())[:ANSWER_LENGTH]
