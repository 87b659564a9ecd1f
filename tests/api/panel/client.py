"""A program that speaks the Panel API."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlencode

from django.http.response import HttpResponseBase
from django.test import Client
from django.utils import timezone

from billing import authority
from users.models import User

BASE = "/v2/panel/"


@dataclass(frozen=True)
class Answer:
    response: HttpResponseBase
    content: bytes

    @property
    def status(self) -> int:
        return self.response.status_code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON of the answer. Numbers with decimals are read as Decimal, to the last digit."""
        body: dict[str, Any] = json.loads(self.content, parse_float=Decimal)
        return body

    @property
    def code(self) -> int | None:
        """The code of the error; None if the call succeeded."""
        body = self.body
        assert body["success"] is (self.status == 200)
        return None if body["success"] else body["status"]["code"]

    @property
    def wrong(self) -> dict[str, str]:
        """The error of each wrong parameter."""
        return {error["parameter"]: error["error"] for error in self.body.get("errors", [])}

    def __getitem__(self, name: str) -> Any:
        return self.body[name]


class Program:
    """Calls the Panel API, with a session if `operator` is given. Checks CSRF as a server does."""

    def __init__(self, operator: User | None = None) -> None:
        self.client = Client(enforce_csrf_checks=True)
        self.hash = authority.open_session(operator, timezone.now()) if operator else ""

    def __call__(self, path: str, **parameters: Any) -> Answer:
        """Calls in the usual way: a POST of JSON with the hash in the header."""
        return self.post(path, json.dumps(parameters))

    def post(
        self, path: str, body: str | bytes, content_type: str = "application/json", **extra: Any
    ) -> Answer:
        if self.hash:
            extra.setdefault("HTTP_AUTHORIZATION", f"NVX {self.hash}")
        return self.answer(self.client.post(BASE + path, body, content_type=content_type, **extra))

    def form(self, path: str, parameters: Mapping[str, Any], **extra: Any) -> Answer:
        return self.post(path, as_form(parameters), "application/x-www-form-urlencoded", **extra)

    def get(self, path: str, parameters: Mapping[str, Any], **extra: Any) -> Answer:
        if self.hash:
            extra.setdefault("HTTP_AUTHORIZATION", f"NVX {self.hash}")
        query = as_form(parameters)
        return self.answer(self.client.get(f"{BASE}{path}?{query}", **extra))

    @staticmethod
    def answer(response: Any) -> Answer:
        content = b"".join(response.streaming_content) if response.streaming else response.content
        return Answer(response, content)


def as_form(parameters: Mapping[str, Any]) -> str:
    return urlencode({k: v if isinstance(v, str) else json.dumps(v) for k, v in parameters.items()})
