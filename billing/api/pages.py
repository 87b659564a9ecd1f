"""Pages for programmers: what each problem means, and which calls exist."""

import re
from collections.abc import Iterator
from http.client import responses
from string import Formatter
from typing import Any, NamedTuple

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_safe
from ninja import NinjaAPI
from ninja.openapi.docs import Swagger

from billing.api.problems import OWN, STATUS_BY_CODE, title_of
from billing.errors import ERRORS_BY_CODE, BillingError

SENTENCE_PART = re.compile(r"\{(\w+)\}")


class Kind(NamedTuple):
    """A problem as its page explains it. Every second part of a sentence is a figure."""

    code: str
    title: str
    status: int
    phrase: str
    sentences: list[list[str]]
    figures: list[str]


def kinds() -> Iterator[Kind]:
    """Yields all problems by status, those of the interface first."""
    described = [
        *((code, status, [sentence], ()) for code, (status, sentence) in OWN.items()),
        *(
            (code, STATUS_BY_CODE.get(code, 422), _sentences(error), error.further_figures)
            for code, error in ERRORS_BY_CODE.items()
        ),
    ]
    for code, status, sentences, further in sorted(described, key=lambda each: each[1]):
        yield Kind(
            code=code,
            title=title_of(code),
            status=status,
            phrase=responses[status],
            sentences=[SENTENCE_PART.split(sentence) for sentence in sentences],
            figures=_figures(sentences, further),
        )


def _sentences(error: type[BillingError]) -> list[str]:
    if hasattr(error, "sentences"):
        return list(error.sentences.values())
    return [error.sentence]


def _figures(sentences: list[str], further: tuple[str, ...]) -> list[str]:
    named = [name for text in sentences for _, name, _, _ in Formatter().parse(text) if name]
    figures = dict.fromkeys([*named, *further])  # in order, each once
    if "reasons" in figures:  # in the sentence only; programs get them field by field
        figures = {"errors": None}
    figures.pop("outcome", None)  # in the sentence only
    return list(figures)


@require_safe
def problems_page(request: HttpRequest) -> HttpResponse:
    """Returns the page that the `type` of each problem links to."""
    return render(request, "billing/api_problems.html", {"kinds": list(kinds())})


class Documentation(Swagger):
    """The page where all calls can be tried. It loads nothing from other servers."""

    template = "billing/api_docs.html"

    def __init__(self) -> None:
        super().__init__(
            {
                "docExpansion": "list",
                "defaultModelsExpandDepth": 0,
                "displayRequestDuration": True,
                "validatorUrl": None,  # no validation by another server
            }
        )

    def render_page(self, request: HttpRequest, api: NinjaAPI, **kwargs: Any) -> HttpResponse:
        page = super().render_page(request, api, **kwargs)
        page["Link"] = f'<{reverse("api-v1:openapi-json")}>; rel="service-desc"'
        return page
