"""API keys, sessions and limits: how a caller gets access, for how long, and how often."""

import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.core import serializers
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing import authority
from billing.models import ApiAllowance, ApiKey, ApiSession
from tests.api.rest.programs import Program, assert_problem, program_of_administrator, program_with
from tests.conftest import Connections
from tests.factories import OperatorFactory, UserFactory
from users.models import User

NOW = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
SECOND = timedelta(seconds=1)


def issued(owner: User, **fields: Any) -> tuple[ApiKey, str]:
    return authority.issue_key(name="CRM", owner=owner, created_by=owner, **fields)


# --- Keys ---------------------------------------------------------------------------------------


def test_a_key_begins_as_scanners_know_it_and_cannot_be_guessed(operator: User) -> None:
    keys = [issued(operator)[1] for _ in range(20)]
    assert len(set(keys)) == 20
    for secret in keys:
        assert re.fullmatch(r"bill_[A-Za-z0-9_-]{43}", secret)  # 256 random bits


def test_of_a_key_only_its_hash_is_kept(operator: User) -> None:
    key, secret = issued(operator)
    begins = secret[: len("bill_") + 6]
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_jsonb(k) FROM billing_apikey k WHERE id = %s", [key.pk])
        [(row,)] = cursor.fetchall()
    for told in (row, serializers.serialize("json", [key]), repr(key), str(key), vars(key)):
        assert secret[len(begins) :] not in str(told)
        assert secret not in str(told)
    assert (key.prefix, key.hashed) == (begins, authority.hash_of(secret))
    assert len(key.hashed) == 64


@pytest.mark.parametrize(
    "other",
    [
        str.upper,
        lambda secret: secret[:-1],
        lambda secret: secret + "A",
        lambda secret: secret[: authority.PREFIX_LENGTH],
        authority.hash_of,
        lambda secret: "",
        lambda secret: "%",
        lambda secret: "\0",
        lambda secret: "\ud800",
    ],
)
def test_nothing_else_than_the_key_finds_it(operator: User, other: Any) -> None:
    key, secret = issued(operator)
    assert authority.find_key(secret, NOW) == key
    assert authority.find_key(other(secret), NOW) is None


def test_a_key_ends_at_the_very_moment_of_its_expiry(operator: User) -> None:
    key, secret = issued(operator, expires_at=NOW)
    assert authority.find_key(secret, NOW - INSTANT) == key
    assert authority.find_key(secret, NOW) is None
    assert authority.state_of(key, NOW - INSTANT) == "working"
    assert authority.state_of(key, NOW) == "expired"


def test_a_revoked_key_finds_nothing_any_more(operator: User) -> None:
    key, secret = issued(operator)
    authority.revoke_key(key, by=operator, now=NOW)
    assert authority.find_key(secret, NOW) is None
    assert (key.revoked_at, key.revoked_by) == (NOW, operator)


def test_a_key_is_revoked_once(operator: User) -> None:
    key, _ = issued(operator)
    authority.revoke_key(key, by=operator, now=NOW)
    authority.revoke_key(key, by=OperatorFactory(), now=NOW + SECOND)
    assert (key.revoked_at, key.revoked_by) == (NOW, operator)


def test_the_database_wants_to_know_who_revoked_a_key(operator: User) -> None:
    key, _ = issued(operator)
    for revoked in ({"revoked_at": NOW}, {"revoked_by": operator}):
        with pytest.raises(IntegrityError, match="revoked_by_somebody"), transaction.atomic():
            ApiKey.objects.filter(pk=key.pk).update(**revoked)


@pytest.mark.parametrize("lost", ["is_active", "is_staff"])
def test_a_key_works_while_its_owner_is_an_active_operator(operator: User, lost: str) -> None:
    key, secret = issued(operator)
    User.objects.filter(pk=operator.pk).update(**{lost: False})
    assert authority.find_key(secret, NOW) is None
    User.objects.filter(pk=operator.pk).update(**{lost: True})
    assert authority.find_key(secret, NOW) == key


def test_the_last_use_is_noted_at_most_once_a_minute(operator: User) -> None:
    key, secret = issued(operator)

    def noted_after(seconds: float) -> datetime | None:
        now = NOW + timedelta(seconds=seconds)
        found = authority.find_key(secret, now)
        assert found is not None
        authority.note_use(found, now)
        key.refresh_from_db()
        return key.last_used_at

    assert noted_after(0) == NOW
    assert noted_after(59.999999) == NOW
    assert noted_after(60) == NOW + timedelta(seconds=60)
    assert noted_after(119) == NOW + timedelta(seconds=60)


def test_noting_a_use_brings_no_revoked_key_back(operator: User) -> None:
    _, secret = issued(operator)
    found = authority.find_key(secret, NOW)
    assert found is not None
    authority.revoke_key(ApiKey.objects.get(pk=found.pk), by=operator, now=NOW)
    authority.note_use(found, NOW)
    assert authority.find_key(secret, NOW) is None


# --- Keys, by HTTP ------------------------------------------------------------------------------


def test_a_key_is_of_no_use_from_the_request_after_its_revocation(program: Program) -> None:
    assert program.get("/users").status_code == 200
    authority.revoke_key(program.key, by=program.owner, now=timezone.now())
    assert_problem(program.get("/users"), 401, "unauthenticated")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "{secret}",
        "Basic {secret}",
        "NVX {secret}",
        "Bearer {secret} {secret}",
        "Bearer {secret}x",
        "Bearer Bearer {secret}",
        "Bearer bill_",
        "Bearer \xe9\xff",
    ],
)
def test_who_shows_no_key_is_told_how(program: Program, authorization: str | None) -> None:
    shown = authorization and authorization.format(secret=program.secret)
    response = program.get("/users", Authorization=shown)
    assert_problem(response, 401, "unauthenticated")
    assert response["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "Bearer "])
def test_the_scheme_is_known_in_capitals_too(program: Program, scheme: str) -> None:
    response = program.get("/users", Authorization=f"{scheme} {program.secret}")
    assert response.status_code == 200


def test_a_key_in_the_address_is_no_key_and_is_not_logged(
    program: Program, lines: list[str]
) -> None:
    response = program.get(f"/users?key={program.secret}", Authorization=None)
    assert_problem(response, 401, "unauthenticated")
    [line] = lines
    assert program.secret not in line


def test_the_session_of_the_panel_opens_nothing(program: Program) -> None:
    program.client.force_login(program.owner)
    assert_problem(program.get("/users", Authorization=None), 401, "unauthenticated")


def test_a_call_notes_the_last_use(program: Program) -> None:
    program.get("/users")
    program.key.refresh_from_db()
    assert program.key.last_used_at is not None


def test_what_a_key_may_see_is_stored_by_nobody_on_the_way(program: Program) -> None:
    assert program.get("/users")["Cache-Control"] == "no-store"
    assert program.get("/users", Authorization=None)["Cache-Control"] == "no-store"


# --- Sessions -----------------------------------------------------------------------------------


def test_a_session_lasts_24_hours_to_the_moment(operator: User) -> None:
    session_hash = authority.open_session(operator, NOW)
    assert re.fullmatch(r"[0-9a-f]{32}", session_hash)
    day = timedelta(hours=24)
    assert authority.find_session(session_hash, NOW + day - INSTANT).operator == operator  # type: ignore[union-attr]
    assert authority.find_session(session_hash, NOW + day) is None


def test_of_a_session_only_the_hash_of_its_hash_is_kept(operator: User) -> None:
    session_hash = authority.open_session(operator, NOW)
    [session] = ApiSession.objects.all()
    assert session.hashed == authority.hash_of(session_hash)
    assert session_hash not in serializers.serialize("json", [session])
    assert authority.find_session(session.hashed, NOW) is None


def test_an_ended_session_is_gone_and_others_go_on(operator: User) -> None:
    ended, other = (authority.open_session(operator, NOW) for _ in range(2))
    session = authority.find_session(ended, NOW)
    assert session is not None
    authority.end_session(session)
    assert authority.find_session(ended, NOW) is None
    assert authority.find_session(other, NOW) is not None


@pytest.mark.parametrize("lost", ["is_active", "is_staff"])
def test_a_session_ends_with_the_operator(operator: User, lost: str) -> None:
    session_hash = authority.open_session(operator, NOW)
    User.objects.filter(pk=operator.pk).update(**{lost: False})
    assert authority.find_session(session_hash, NOW) is None


def test_sessions_that_are_over_are_removed_when_one_is_opened(operator: User) -> None:
    authority.open_session(operator, NOW)
    authority.open_session(operator, NOW + timedelta(hours=24))
    assert ApiSession.objects.count() == 1


# --- Limits -------------------------------------------------------------------------------------


def spend(now: datetime, per_minute: int, bearer: str = "key:1") -> timedelta | None:
    return authority.spend(bearer, per_minute=per_minute, now=now)


# 7, 11 and 999 do not divide a minute: rounded up, the last share would not fit into it.
@pytest.mark.parametrize("per_minute", [1, 2, 7, 11, 60, 999])
def test_exactly_a_minutes_worth_may_come_at_once(db: None, per_minute: int) -> None:
    assert [spend(NOW, per_minute) for _ in range(per_minute)] == [None] * per_minute
    assert spend(NOW, per_minute) is not None


@pytest.mark.parametrize("per_minute", [1, 7, 60])
def test_then_one_comes_with_each_share_of_a_minute(db: None, per_minute: int) -> None:
    for _ in range(per_minute):
        spend(NOW, per_minute)
    now = NOW
    for _ in range(3):
        wait = spend(now, per_minute)
        assert wait is not None
        assert timedelta(0) < wait <= timedelta(minutes=1) / per_minute
        assert spend(now + wait - INSTANT, per_minute) is not None
        now += wait
        assert spend(now, per_minute) is None


def test_a_refused_request_costs_nothing(db: None) -> None:
    for _ in range(60):
        spend(NOW, 60)
    waits = {spend(NOW, 60) for _ in range(100)}
    assert waits == {SECOND}


def test_who_waits_a_minute_has_a_whole_minutes_worth_again_and_no_more(db: None) -> None:
    for later in (timedelta(0), timedelta(minutes=1), timedelta(days=30)):
        assert [spend(NOW + later, 7) for _ in range(7)] == [None] * 7
        assert spend(NOW + later, 7) is not None


def test_nobody_spends_what_is_another_keys(db: None) -> None:
    assert spend(NOW, 1, "key:1") is None
    assert spend(NOW, 1, "key:2") is None
    assert spend(NOW, 1, "key:1") is not None


@pytest.mark.parametrize("raised", [2, 60, 0])
def test_a_raised_limit_holds_at_once(db: None, raised: int) -> None:
    assert spend(NOW, 1) is None
    assert spend(NOW, 1) is not None
    assert spend(NOW + timedelta(seconds=31), raised) is None


def test_zero_is_no_limit_and_writes_nothing(db: None) -> None:
    assert [spend(NOW, 0) for _ in range(100)] == [None] * 100
    assert not ApiAllowance.objects.exists()


def test_a_clock_that_goes_back_a_little_locks_nobody_out(db: None) -> None:
    assert spend(NOW, 60) is None
    assert spend(NOW - SECOND, 60) is None


def test_a_returned_allowance_can_be_spent_again(db: None) -> None:
    assert spend(NOW, 1) is None
    authority.return_allowance("key:1")
    assert spend(NOW, 1) is None


def test_what_is_spent_no_more_is_forgotten(db: None) -> None:
    spend(NOW, 60, "key:1")
    spend(NOW, 1, "key:2")
    authority.forget_allowances(NOW + SECOND)
    assert [row.bearer for row in ApiAllowance.objects.all()] == ["key:2"]


def test_of_twice_as_many_at_once_exactly_a_minutes_worth_passes(connections: Connections) -> None:
    per_minute = 10
    outcomes = connections(2 * per_minute, lambda place: spend(NOW, per_minute))
    assert [outcome.error for outcome in outcomes] == [None] * 2 * per_minute
    assert [outcome.result for outcome in outcomes].count(None) == per_minute


def test_the_table_of_limits_is_not_written_to_the_databases_log(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relpersistence FROM pg_class WHERE oid = 'billing_apiallowance'::regclass"
        )
        assert cursor.fetchone() == ("u",)


# --- Limits, by HTTP ----------------------------------------------------------------------------


@pytest.fixture
def clock(db: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The clock that the calls read. `clock.now` stands still until the test moves it."""

    class Clock:
        now = NOW

    monkeypatch.setattr("billing.api.keys.timezone.now", lambda: Clock.now)
    return Clock


def test_who_comes_too_often_is_told_when_to_come_again(clock: Any, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 7
    program = program_of_administrator()
    assert [program.get("/users").status_code for _ in range(7)] == [200] * 7
    refused = program.get("/users")
    seconds = int(refused["Retry-After"])
    assert_problem(refused, 429, "too_many_requests", seconds=seconds)
    clock.now += timedelta(seconds=seconds - 1)
    assert_problem(program.get("/users"), 429, "too_many_requests", seconds=1)
    clock.now += SECOND
    assert program.get("/users").status_code == 200


@pytest.mark.parametrize(
    ("default", "own", "passing"), [(2, None, 2), (2, 3, 3), (3, 2, 2), (0, 1, 1), (0, None, 9)]
)
def test_a_keys_own_limit_goes_before_the_default(
    clock: Any, settings: Any, default: int, own: int | None, passing: int
) -> None:
    settings.API_REQUESTS_PER_MINUTE = default
    program = program_of_administrator(requests_per_minute=own)
    answers = [program.get("/users").status_code for _ in range(9)]
    assert answers == [200] * passing + [429] * (9 - passing)


def test_a_key_without_a_limit_is_never_refused(clock: Any, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 1
    program = program_of_administrator(requests_per_minute=0)
    assert {program.get("/users").status_code for _ in range(5)} == {200}


def test_what_a_key_may_not_do_counts_too(clock: Any, settings: Any) -> None:
    settings.API_REQUESTS_PER_MINUTE = 2
    program = program_with()
    answers = [program.get("/users").status_code for _ in range(3)]
    assert answers == [403, 403, 429]


def test_a_call_over_the_limit_changes_nothing(clock: Any, settings: Any) -> None:
    user = UserFactory()
    settings.API_REQUESTS_PER_MINUTE = 1
    program = program_of_administrator()
    refill = {"description": "Refill 17", "amount": "5"}
    path = f"/users/{user.pk}/balance-changes"
    assert program.post(path, refill).status_code == 201
    assert_problem(program.post(path, refill), 429, "too_many_requests")
    user.balance.refresh_from_db()
    assert user.balance.last_number == 1


def test_no_log_has_a_key(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    """This holds for every logger, and for calls that succeed and calls that are refused."""
    caplog.set_level(logging.INFO)
    for path in ("/users", "/users/0", "/nothing"):
        program.get(path)
    program.post("/users", {"email": "no"})
    program.post("/users", b"{")
    assert caplog.text.count(f'"key_id": {program.key.pk},') == 4  # logged by the key's ID
    assert program.secret[authority.PREFIX_LENGTH :] not in caplog.text
    assert program.key.hashed not in caplog.text
