"""Fixtures that read the log of calls, for tests of both faces of the API."""

import logging
from collections.abc import Iterator

import pytest

from billing.api import call_log


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """The lines that the log of calls has so far."""
    written: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            written.append(record.getMessage())

    handler, level = Lines(), call_log.logger.level
    call_log.logger.addHandler(handler)
    call_log.logger.setLevel(logging.INFO)
    yield written
    call_log.logger.removeHandler(handler)
    call_log.logger.setLevel(level)


@pytest.fixture
def with_bodies(settings: pytest.FixtureRequest) -> None:
    settings.LOG_API_BODIES = True  # type: ignore[attr-defined]
