"""Webhooks may go to public addresses over TLS, and to networks that the setting allows."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured, ValidationError

from billing import webhooks
from billing.models import WebhookEndpoint
from billing.webhooks import network
from billing.webhooks.network import EndpointConnection, Reply, check_url, is_public
from config.settings import _networks
from tests.billing.receiver import (
    OK,
    PATIENCE_SECONDS,
    Behaviour,
    Handler,
    Message,
    Receiver,
    drips,
    hangs,
    impatience,
    is_signed,
)

PUBLIC, PRIVATE = "93.184.216.34", "10.1.2.3"


def look_up(names: dict[str, list[str]]) -> Callable[..., Any]:
    """Returns a `getaddrinfo` that resolves only these names and plain IP addresses."""

    def getaddrinfo(host: str, port: int, *rest: Any, **options: Any) -> Any:
        addresses = names.get(host)
        if addresses is None:
            try:
                addresses = [str(ip_address(host))]
            except ValueError:
                raise socket.gaierror(-2, "Name or service not known") from None
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, 1, 6, "", (each, port))
            for each in addresses
        ]

    return getaddrinfo


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    names: dict[str, list[str]] = {}
    monkeypatch.setattr(socket, "getaddrinfo", look_up(names))
    return names


@pytest.fixture
def this_machine_is_allowed(settings: Any) -> None:
    settings.WEBHOOK_PRIVATE_NETWORKS = (ip_network("127.0.0.0/8"),)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def send_to(url: str) -> Reply:
    endpoint = WebhookEndpoint(pk=1, url=url, secret=webhooks.new_secret())
    return webhooks.send_test(endpoint)


# --- Addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "2606:2800:220:1::1",
        f"::ffff:{PUBLIC}",
        "64:ff9b::5db8:d822",  # PUBLIC in NAT64 form
    ],
)
def test_addresses_on_the_internet_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",  # noqa: S104
        "10.0.0.1",
        "100.64.0.1",
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "172.16.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.168.1.1",
        "198.18.0.1",
        "224.0.0.1",
        "224.0.1.1",
        "233.252.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b::7f00:1",
        "64:ff9b:1::5db8:d822",
        "100::1",
        "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        "2001:db8::1",
        "2002:a00:1::1",
        "2002:5db8:d822::1",
        "5f00::1",
        "fc00::1",
        "fd12:3456::1",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_all_others_are_not(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    ("network_allowed", "address"),
    [
        ("10.1.0.0/16", "10.1.2.3"),
        ("10.1.0.0/16", "::ffff:10.1.2.3"),
        ("fd00:1::/32", "fd00:1::5"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_the_setting_allows_what_it_names_and_no_more(
    names: dict[str, list[str]], settings: Any, network_allowed: str, address: str
) -> None:
    names["crm.internal"] = [address]
    for url in ("https://crm.internal/", "http://crm.internal/"):
        with pytest.raises(ValidationError, match=r"neither a public|not in WEBHOOK"):
            check_url(url)
    settings.WEBHOOK_PRIVATE_NETWORKS = (ip_network(network_allowed),)
    check_url("https://crm.internal/")
    check_url("http://crm.internal/")
    names["crm.internal"] = ["10.2.0.1"]
    with pytest.raises(
        ValidationError, match=r"crm.internal is 10.2.0.1, which is neither a public"
    ):
        check_url("https://crm.internal/")


def test_the_setting_is_read_as_networks() -> None:
    assert _networks("NETWORKS", ["10.1.0.0/16", " fd00:1::/32 ", ""]) == (
        ip_network("10.1.0.0/16"),
        ip_network("fd00:1::/32"),
    )
    for wrong in ("10.1.0.1/16", "intranet", "10.0.0.0/33"):
        with pytest.raises(ImproperlyConfigured, match=r"^NETWORKS: .* networks like"):
            _networks("NETWORKS", [wrong])


# --- Addresses that an operator may enter -------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://crm.example.com",
        "https://crm.example.com/hooks?of=billing&x=%20",
        "https://crm.example.com:8443/hooks",
        "https://xn--bcher-kva.example/hooks",
        f"https://{PUBLIC}/",
        "https://[2606:2800:220:1::1]:8443/",
        "https://not-known-yet.example.com/",
    ],
)
def test_public_addresses_can_be_entered(names: dict[str, list[str]], url: str) -> None:
    names["crm.example.com"] = names["xn--bcher-kva.example"] = [PUBLIC, "2606:2800:220:1::1"]
    check_url(url)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "must begin with https://"),
        ("crm.example.com/hooks", "must begin with https://"),
        ("ftp://crm.example.com/", "must begin with https://"),
        ("http://crm.example.com/", "Use https://"),
        ("http://not-known.example.com/", "has to be resolvable"),
        ("https://", "not a web address"),
        ("https://crm.example.com:0/", "not a web address"),
        ("https://crm.example.com:99999/", "not a web address"),
        ("https://[::1/", "not a web address"),
        ("https://crm.example.com\\@10.1.2.3/", "not a web address"),
        ("https://ada:secret@crm.example.com/", "user name or password"),
        ("https://crm.example.com/#there", "after #"),
        ("https://crm.example.com/a b", "no spaces"),
        ("https://crm.example.com/\r\nX-Other: 1", "no spaces"),
        ("https://bücher.example/", "no spaces"),
        (f"https://{PRIVATE}/", f"{PRIVATE} is neither a public address"),
        ("https://127.0.0.1/", "neither a public address"),
        ("https://[::1]/", "neither a public address"),
        ("https://[::ffff:10.1.2.3]/", "neither a public address"),
        (
            "https://inside.example.com/",
            "inside.example.com is 10.1.2.3, which is neither a public",
        ),
        ("https://both.example.com/", "both.example.com is 10.1.2.3, which is neither a public"),
    ],
)
def test_others_cannot_and_a_sentence_says_why(
    names: dict[str, list[str]], url: str, sentence: str
) -> None:
    names |= {
        "crm.example.com": [PUBLIC],
        "inside.example.com": [PRIVATE],
        "both.example.com": [PUBLIC, PRIVATE],
    }
    with pytest.raises(ValidationError) as refusal:
        check_url(url)
    assert sentence in refusal.value.message


@pytest.mark.parametrize("written", ["2130706433", "0x7f.1", "127.1", "0177.0.0.1"])
def test_other_ways_to_write_an_address_are_seen_through(written: str) -> None:
    """The machine's own resolver understands them."""
    with pytest.raises(ValidationError, match=r"127.0.0.1, which is neither a public address"):
        check_url(f"https://{written}/")


# --- Where a webhook is sent --------------------------------------------------------------------


def test_a_private_address_is_not_even_connected_to(receiver: Receiver) -> None:
    answer = send_to(receiver.url.replace("http:", "https:"))
    assert answer.problem == (
        "127.0.0.1 is neither a public address nor in WEBHOOK_PRIVATE_NETWORKS."
    )
    assert receiver.connection_count == 0


def test_a_name_that_means_another_address_a_moment_later_gains_nothing(
    receiver: Receiver, names: dict[str, list[str]]
) -> None:
    names["crm.example.com"] = [PUBLIC]
    url = f"https://crm.example.com:{receiver.port}/"
    check_url(url)
    names["crm.example.com"] = ["127.0.0.1"]
    answer = send_to(url)
    assert "crm.example.com is 127.0.0.1, which is neither a public address" in answer.problem
    assert receiver.connection_count == 0


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    receiver: Receiver, names: dict[str, list[str]]
) -> None:
    names["crm.example.com"] = [PUBLIC, "127.0.0.1"]
    answer = send_to(f"https://crm.example.com:{receiver.port}/")
    assert "is neither a public address" in answer.problem


def test_the_connection_goes_to_the_very_address_that_was_judged(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, this_machine_is_allowed: None
) -> None:
    asked: list[str] = []
    addresses = iter([["127.0.0.1"]])
    known = look_up({})

    def ask_once(host: str, *rest: Any, **options: Any) -> Any:
        asked.append(host)
        if host == "crm.example.com":
            return look_up({host: next(addresses)})(host, *rest, **options)
        return known(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", ask_once)
    answer = send_to(f"http://crm.example.com:{receiver.port}/")
    assert answer.is_delivered
    assert receiver.messages[0].headers["host"] == f"crm.example.com:{receiver.port}"
    assert asked.count("crm.example.com") == 1


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    receiver: Receiver, names: dict[str, list[str]], this_machine_is_allowed: None
) -> None:
    names["crm.example.com"] = ["127.9.9.9", "127.0.0.1"]
    assert send_to(f"http://crm.example.com:{receiver.port}/").is_delivered


def test_plain_http_goes_to_private_networks_only(
    names: dict[str, list[str]], this_machine_is_allowed: None
) -> None:
    names["crm.example.com"] = [PUBLIC]
    assert "Use https://" in send_to("http://crm.example.com/").problem


def test_no_proxy_of_the_environment_is_used(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch, this_machine_is_allowed: None
) -> None:
    with Receiver() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send_to(receiver.url).is_delivered
        assert proxy.connection_count == 0


def test_a_name_server_that_is_silent_costs_no_more_than_a_connection_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = threading.Event()
    monkeypatch.setattr(network, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: answered.wait(60) and [])
    answer = send_to("https://crm.example.com/")
    answered.set()
    assert answer.problem == "The name crm.example.com was not resolved in time."


def test_what_is_no_address_is_a_failure_and_no_exception() -> None:
    for url in ("nonsense", "https://[::1", "https://a b/", "https://" + "x" * 300 + "/"):
        answer = send_to(url)
        assert answer.problem
        assert answer.status_code is None


# --- TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns the paths of a key and of its self-signed certificate for crm.example.com."""
    folder = tmp_path_factory.mktemp("certificate")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=crm.example.com"
    names = "subjectAltName=DNS:crm.example.com"
    try:
        subprocess.run(
            ["openssl", *subject.split(), "-addext", names, "-keyout", key, "-out", certificate],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl, to make a certificate")
    return key, certificate


@pytest.fixture
def secure(certificate: tuple[Path, Path]) -> Iterator[Receiver]:
    key, chain = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    with Receiver(certificate=context) as receiver:
        yield receiver


def trust(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(network, "trusted", lambda: context)


def test_over_tls_it_goes_to_whose_certificate_is_trusted(
    secure: Receiver,
    certificate: tuple[Path, Path],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    this_machine_is_allowed: None,
) -> None:
    names["crm.example.com"] = ["127.0.0.1"]
    trust(certificate[1], monkeypatch)
    url = f"https://crm.example.com:{secure.port}/"
    endpoint = WebhookEndpoint(pk=1, url=url, secret=webhooks.new_secret())
    assert webhooks.send_test(endpoint).problem == ""
    assert is_signed(secure.messages[0], endpoint.secret)


def test_nothing_is_told_to_whose_certificate_is_not_trusted(
    secure: Receiver, names: dict[str, list[str]], this_machine_is_allowed: None
) -> None:
    names["crm.example.com"] = ["127.0.0.1"]
    answer = send_to(f"https://crm.example.com:{secure.port}/")
    assert answer.problem.startswith("Its certificate is not trusted: self-signed")
    assert not secure.messages


def test_nothing_is_told_to_who_has_a_certificate_for_another_name(
    secure: Receiver,
    certificate: tuple[Path, Path],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    this_machine_is_allowed: None,
) -> None:
    names["other.example.com"] = ["127.0.0.1"]
    trust(certificate[1], monkeypatch)
    answer = send_to(f"https://other.example.com:{secure.port}/")
    assert "Hostname mismatch" in answer.problem
    assert not secure.messages


def test_the_machines_authorities_are_trusted_and_names_are_checked() -> None:
    context = network.trusted()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 50


def test_tls_that_never_comes_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, this_machine_is_allowed: None
) -> None:
    monkeypatch.setattr(network, "ATTEMPT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with EndpointConnection(f"https://127.0.0.1:{port}/") as line:
            answer = line.post(b"{}", lambda at: {}, lambda: datetime.now(UTC))
    assert answer.problem
    assert answer.is_out_of_reach


@pytest.mark.parametrize("host", ["crm.example.com", "CRM.example.com", "crm.example.com."])
def test_over_tls_the_receiver_is_told_whom_it_is_asked_for(  # noqa: PLR0917 - fixtures
    secure: Receiver,
    certificate: tuple[Path, Path],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    this_machine_is_allowed: None,
    host: str,
) -> None:
    """The name is sent in TLS and in the Host header, although the connection uses an address."""
    asked_for: list[str | None] = []
    spoken: list[str | None] = []
    names[host.lower()] = ["127.0.0.1"]
    trusted = network.trusted.__wrapped__()
    trusted.load_verify_locations(certificate[1])
    monkeypatch.setattr(network, "trusted", lambda: trusted)
    assert secure.certificate is not None
    secure.certificate.sni_callback = lambda connected, name, context: asked_for.append(name)
    secure.certificate.set_alpn_protocols(["h2", "http/1.1"])

    def note_protocol(handler: Handler, message: Message) -> None:
        spoken.append(handler.connection.selected_alpn_protocol())
        OK(handler, message)

    secure.behave = note_protocol
    assert send_to(f"https://{host}:{secure.port}/").problem == ""
    assert asked_for == ["crm.example.com"]
    assert spoken == ["http/1.1"]
    assert secure.messages[0].headers["host"] == f"{host}:{secure.port}"


def test_over_tls_one_connection_serves_many_messages(
    secure: Receiver,
    certificate: tuple[Path, Path],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    this_machine_is_allowed: None,
) -> None:
    names["crm.example.com"] = ["127.0.0.1"]
    trust(certificate[1], monkeypatch)
    with EndpointConnection(f"https://crm.example.com:{secure.port}/") as line:
        for _ in range(3):
            assert line.post(b"{}", lambda at: {}, lambda: datetime.now(UTC)).is_delivered
    assert len(secure.messages) == 3
    assert secure.connection_count == 1


@pytest.mark.parametrize("behave", [drips, hangs], ids=["drips", "hangs"])
def test_over_tls_the_time_of_an_attempt_is_limited_too(  # noqa: PLR0917 - named, not placed
    secure: Receiver,
    certificate: tuple[Path, Path],
    names: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    this_machine_is_allowed: None,
    behave: Behaviour,
) -> None:
    names["crm.example.com"] = ["127.0.0.1"]
    trust(certificate[1], monkeypatch)
    secure.behave = behave
    with impatience(secure, monkeypatch):
        answer = send_to(f"https://crm.example.com:{secure.port}/")
    assert answer.problem == f"No answer within {PATIENCE_SECONDS} seconds."


def test_tls_that_drips_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, this_machine_is_allowed: None
) -> None:
    """Each byte comes in time, but the handshake never ends."""
    monkeypatch.setattr(network, "ATTEMPT_SECONDS", 0.3)
    is_over = threading.Event()

    def drip(connected: socket.socket) -> None:
        with connected, suppress(OSError):
            connected.sendall(b"\x16\x03\x03\x40\x00")
            while not is_over.wait(0.02):
                connected.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as slow:
        url = f"https://127.0.0.1:{slow.getsockname()[1]}/"
        thread = threading.Thread(target=lambda: drip(slow.accept()[0]), daemon=True)
        thread.start()
        with EndpointConnection(url) as line:
            answer = line.post(b"{}", lambda at: {}, lambda: datetime.now(UTC))
        is_over.set()
    assert answer.problem
    assert answer.is_out_of_reach


@pytest.mark.parametrize(
    "bytes_sent", [b"HTTP/1.1 200 OK\r\n\r\n", b"", b"\x15\x03\x03\x00\x02\x02\x28"]
)
def test_what_speaks_no_tls_is_no_connection(
    this_machine_is_allowed: None, bytes_sent: bytes
) -> None:
    def speak(connected: socket.socket) -> None:
        with connected, suppress(OSError):
            connected.recv(10_000)
            connected.sendall(bytes_sent)

    with socket.create_server(("127.0.0.1", 0)) as plain:
        url = f"https://127.0.0.1:{plain.getsockname()[1]}/"
        threading.Thread(target=lambda: speak(plain.accept()[0]), daemon=True).start()
        with EndpointConnection(url) as line:
            answer = line.post(b"{}", lambda at: {}, lambda: datetime.now(UTC))
    assert answer.problem.startswith("No connection: ")
