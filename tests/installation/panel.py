"""Makes requests to the panel as a browser does: over HTTPS, through nginx."""

import json
import re
import socket
import ssl
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

PATIENCE_SECONDS: Final = 60


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Browser:
    """Keeps cookies, and trusts one certificate.

    `port` is the port in the browser's address bar. The connection always goes to port 443.
    """

    host: str
    certificate: Path
    port: int = 443
    cookies: dict[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> str:
        return f"https://{self.named}"

    @property
    def named(self) -> str:
        return self.host if self.port == 443 else f"{self.host}:{self.port}"

    def ask(self, method: str, path: str, body: str | None = None, **headers: str) -> Answer:
        context = ssl.create_default_context(cafile=str(self.certificate))
        plain = socket.create_connection(("127.0.0.1", 443), PATIENCE_SECONDS)
        connection = HTTPConnection(self.host)
        connection.sock = context.wrap_socket(plain, server_hostname=self.host)
        given = {"Host": self.named, "Referer": f"{self.origin}/"}
        if self.cookies:
            given["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        try:
            connection.request(
                method, path, body, given | {n.replace("_", "-"): v for n, v in headers.items()}
            )
            return self._answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def post(self, path: str, **fields: str) -> Answer:
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path).text)
        assert token is not None, path
        return self.ask(
            *("POST", path, urlencode({"csrfmiddlewaretoken": token[1]} | fields)),
            Content_Type="application/x-www-form-urlencoded",
            Origin=self.origin,
        )

    def readiness(self) -> Any:
        return json.loads(self.get("/readyz").text)

    def _answer(self, response: HTTPResponse) -> Answer:
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                cookie, _, content = value.partition(";")[0].partition("=")
                self.cookies[cookie] = content
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())


def plain(path: str, host: str, port: int = 80) -> Answer:
    """Makes a GET request over HTTP. On port 8000 it reaches the panel without the proxy."""
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path, headers={"Host": host})
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, headers, response.read())
    finally:
        connection.close()
