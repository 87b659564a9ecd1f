import pytest
from django.db import OperationalError, connection
from django.test import Client, override_settings


def test_a_database_that_answers_is_healthy(db: None, client: Client) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.content) == (200, b"ok\n")


def test_a_database_that_does_not_answer_is_503(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OperationalError("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(connection, "cursor", refuse)
        answer = client.get("/healthz")
    assert answer.status_code == 503


@override_settings(SECURE_SSL_REDIRECT=True, ALLOWED_HOSTS=["panel.example.com"])
def test_a_probe_needs_neither_https_nor_the_name_of_the_site(db: None, client: Client) -> None:
    assert client.get("/healthz", headers={"host": "10.0.0.7"}).status_code == 200
    assert client.get("/admin/", headers={"host": "10.0.0.7"}).status_code == 400
