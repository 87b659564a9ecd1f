"""Forgetting a person: what is erased, what stays, and that nothing else can be changed so."""

import json
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.management import call_command
from django.db import DatabaseError, transaction
from django.utils import timezone

from billing import errors, events, ledger, operations
from billing.models import (
    Channel,
    Event,
    KeptAnswer,
    Subject,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)
from billing.operations.forgetting import Forgotten
from tests.billing.clock import movable_clock
from tests.billing.histories import BY_PANEL, execute, judge
from tests.conftest import Connections
from tests.factories import OperatorFactory, PlanFactory, UserFactory, subscribed, user_with
from tests.recorded import events_of, sentences_of
from tests.roles import as_owner
from users.models import User
from users.search import search

ADA: dict[str, str] = {
    "email": "Ada.Quetzalcoatl@xylophone.example",
    "first_name": "Adalbertine",
    "middle_name": "Bonaventura",
    "last_name": "Quetzalcoatl",
    "phone": "+49 176 55512345",
    "tin": "TIN-998877665",
    "legal_name": "Quetzalcoatl Xylophones",
    "iec": "IEC-4433221",
    "state_reg_num": "776655443322",
    "okpo_code": "1122334455",
    "country": "Ruritania",
    "region": "Zendashire",
    "city": "Strelsau",
    "street_address": "Zenda Castle 17",
    "postal_code": "RU-90210",
    "registered_country": "Graustark",
    "registered_region": "Edelweissland",
    "registered_city": "Edelweissburg",
    "registered_street_address": "Yetive Street 3",
    "registered_postal_code": "GR-10999",
    "time_zone": "Pacific/Kiritimati",
    "comment": "Met at the Xylophone Fair",
}


def forget(user: User, **options: Any) -> Forgotten:
    said: dict[str, Any] = {**BY_PANEL} | options
    return operations.forgetting.forget(user.pk, **said)


def close(user: User) -> None:
    operations.customers.set_active(Subject.USER, [user.pk], is_active=False, **BY_PANEL)


def edit(user: User, **fields: Any) -> None:
    operations.customers.edit(user.pk, lambda user: fields, day=timezone.now().date(), **BY_PANEL)


def verify(*arguments: str) -> str:
    """Returns what verify_ledger complains about."""
    judge()
    said = StringIO()
    try:
        call_command("verify_ledger", *arguments, stdout=StringIO(), stderr=said)
    except SystemExit:
        assert said.getvalue()
    return said.getvalue()


def noted(user: User) -> Event:
    """Records what Django's log said before there were events."""
    return events.record(
        Subject.USER,
        user.pk,
        "noted",
        actor=None,
        channel=Channel.PANEL,
        name=f"{user}",
        message=f"Renamed {user.email}",
        flag=CHANGE,
    )


@pytest.fixture
def ada(db: None) -> User:
    """A closed user about whom much was written."""
    user = UserFactory(**ADA)
    noted(user)
    edit(user, phone="+49 176 55500000")
    edit(user, phone=ADA["phone"])
    noted(user)
    close(user)
    user.refresh_from_db()
    return user


def texts() -> Iterator[tuple[str, str]]:
    """Yields every row of every table, as text, except what people described transactions with."""
    for (table,) in execute(
        "SELECT c.oid::regclass::text FROM pg_class c "
        "WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'm') ORDER BY 1"
    ):
        without = " - 'description' - 'metadata'" if table == "billing_transaction" else ""
        for (row,) in execute(f"SELECT (to_jsonb(t){without})::text FROM {table} t"):
            yield table, row


def remains(person: dict[str, str]) -> list[str]:
    """Returns where something of a person still stands, in any case."""
    words = [each.lower() for each in person.values()]
    words += ["55512345", "quetzalcoatl", "xylophone"]
    return [
        f"{table}: {word}"
        for table, row in texts()
        for word in words
        if word in row.lower().replace("\\u0020", " ")
    ]


# --- What is erased -----------------------------------------------------------------------------


@pytest.mark.as_owner
def test_nothing_of_the_person_is_left_in_any_table(ada: User) -> None:
    operator = OperatorFactory()
    LogEntry.objects.create(
        user=operator,
        content_type=ContentType.objects.get_for_model(User),
        object_id=str(ada.pk),
        object_repr="Adalbertine Quetzalcoatl",
        action_flag=CHANGE,
        change_message="Ada.Quetzalcoatl@xylophone.example",
    )
    for call, answer in (
        ("POST /api/v1/users", {"body": {"id": ada.pk, "email": ADA["email"]}, "headers": {}}),
        (f"PATCH /api/v1/users/{ada.pk}", {"body": {"phone": ADA["phone"]}, "headers": {}}),
        (f"POST /api/v1/users/{ada.pk}/subscriptions", {"body": ADA, "headers": {}}),
    ):
        KeptAnswer.objects.create(
            owner=operator, call=call, key="one", fingerprint="f", answer=json.dumps(answer)
        )
    others = KeptAnswer.objects.create(
        owner=operator,
        call=f"POST /api/v1/users/{ada.pk}1/subscriptions",
        key="one",
        fingerprint="f",
        answer="{}",
    )
    endpoint = WebhookEndpoint.objects.create(
        name="CRM", url="https://crm.example/", secret="s", events=["transaction.posted"]
    )
    event = WebhookEvent.objects.create(
        type="transaction.posted", user=ada, created_at=timezone.now()
    )
    delivery = WebhookDelivery.objects.create(event=event, endpoint=endpoint, user_id=ada.pk)
    WebhookAttempt.objects.create(
        delivery=delivery, at=timezone.now(), milliseconds=1, answer="Thanks, Adalbertine!"
    )
    assert len(remains(ADA)) > 40
    forget(ada)
    assert remains(ADA) == []
    others.refresh_from_db()
    assert (others.answer, others.fingerprint) == ("{}", "f")
    assert KeptAnswer.objects.filter(answer="", lasts=True).count() == 3
    assert verify() == ""


def test_the_user_gets_placeholders(ada: User) -> None:
    done = forget(ada)
    user = done.user
    assert str(user) == f"Forgotten user No. {user.pk}"
    assert user.email == f"forgotten-{user.pk}@forgotten.invalid"
    assert user.forgotten_at is not None
    assert {getattr(user, name) for name in ADA} - {"", user.email} == {
        "Forgotten user",
        f"No. {user.pk}",
    }
    assert sentences_of(Subject.USER, user.pk)[-1] == done.sentence
    assert done.sentence == "The personal data was erased."


def test_an_address_that_somebody_has_is_not_taken(ada: User) -> None:
    UserFactory(email=f"Forgotten-{ada.pk}@forgotten.invalid")
    assert forget(ada).user.email == f"forgotten-{ada.pk}-2@forgotten.invalid"


@pytest.mark.parametrize(
    "words",
    [
        "Adalbertine",
        "quetzalcoatl",
        "ada.quetzalcoatl@XYLOPHONE.example",
        "<Ada.Quetzalcoatl@xylophone.example>",
        "0176 555 12345",
        "+4917655512345",
        "TIN-998877665",
        "Zenda Castle",
        "Strelsau",
        "90210",
    ],
)
def test_the_search_no_longer_finds_the_person(ada: User, words: str) -> None:
    assert [*search(User.objects.all(), words)] == [ada]
    forget(ada)
    assert [*search(User.objects.all(), words)] == []
    assert [*search(User.objects.all(), f"#{ada.pk}")] == [ada]


def test_somebody_else_can_have_the_address(ada: User) -> None:
    forget(ada)
    added = operations.customers.create(
        User(email=ADA["email"].upper()), day=timezone.now().date(), **BY_PANEL
    )
    assert added.user.pk != ada.pk


def test_the_ledger_stays_as_it_is(db: None) -> None:
    user = user_with(real=5, **ADA)
    ledger.change_balance(
        user, amount=-5, description="Paid out to Adalbertine", idempotency_key="out", **BY_PANEL
    )
    before = execute("SELECT * FROM billing_transaction ORDER BY id")
    close(user)
    forget(user)
    assert execute("SELECT * FROM billing_transaction ORDER BY id") == before
    again = ledger.change_balance(
        user, amount=-5, description="Paid out to Adalbertine", idempotency_key="out", **BY_PANEL
    )
    assert again.replayed
    assert verify() == ""


def test_duplicates_are_forgotten_with_the_user_who_was_kept(db: None) -> None:
    user, kept = UserFactory(**ADA), UserFactory(email="quetzalcoatl@xylophone.example")
    day = timezone.now().date()
    operations.duplicates.merge(user.pk, kept.pk, day=day, **BY_PANEL)
    close(kept)
    done = forget(kept)
    assert [each.pk for each in done.duplicates] == [user.pk]
    assert remains(ADA) == []
    for each in (user, kept):
        assert events_of(Subject.USER, each.pk)[-1].action == "forgotten"
    user.refresh_from_db()
    assert user.duplicate_of == kept
    assert verify() == ""


def test_a_duplicate_can_be_forgotten_alone(db: None) -> None:
    user, kept = UserFactory(**ADA), UserFactory()
    operations.duplicates.merge(user.pk, kept.pk, day=timezone.now().date(), **BY_PANEL)
    assert forget(user).duplicates == ()
    close(kept)
    assert forget(kept).duplicates == ()
    assert verify() == ""


def test_what_was_noted_says_that_it_was_erased(ada: User) -> None:
    digests = [event.digest for event in events_of(Subject.USER, ada.pk)]
    forget(ada)
    found = events_of(Subject.USER, ada.pk)
    assert [event.digest for event in found][:-1] == digests
    assert sentences_of(Subject.USER, ada.pk)[0] == "The wording was erased."
    assert found[0].data == {"name": None, "message": None, "flag": CHANGE}
    assert [each["number"] for each in found[-1].data["events"]] == [1, 4]


def test_every_column_of_a_user_is_erased_or_is_known_to_say_nothing_about_a_person() -> None:
    """Whoever adds a column decides whether forgetting erases it."""
    assert ADA.keys() == {*User.texts()} - {"legal_type"}
    columns = {field.name for field in User._meta.concrete_fields}
    assert columns - set(User.texts()) == {
        *("id", "password", "last_login", "is_superuser", "is_active", "is_staff", "created_at"),
        *("duplicate_of", "forgotten_at"),
        *("email_identity", "email_twin", "search_text"),  # computed by the database
    }


# --- Refusals -----------------------------------------------------------------------------------


def refusal_of(user: User, kind: type[errors.BillingError]) -> str:
    count = Event.objects.count()
    with pytest.raises(kind) as refusal:
        forget(user)
    assert Event.objects.count() == count
    return str(refusal.value)


def test_only_closed_users_are_forgotten(db: None) -> None:
    user = user_with(real=15, bonus=2)
    subscribed(user, PlanFactory(price=10), day=timezone.now().date())
    assert refusal_of(user, errors.NotClosed) == (
        "The user cannot be forgotten yet: the user is active; the balance is 5.00; "
        "the bonus balance is 2.00; a subscription has not ended."
    )
    close(user)
    with pytest.raises(errors.NotClosed) as refusal:
        forget(user)
    assert refusal.value.data == {
        "user_id": user.pk,
        "is_active": False,
        "real": "5.0000",
        "bonus": "2.0000",
        "subscriptions": 1,
    }
    broke = UserFactory()
    for device in ("1", "2"):
        subscribed(broke, PlanFactory(price=10), device=device)
    close(broke)
    assert refusal_of(broke, errors.NotClosed) == (
        "The user cannot be forgotten yet: 2 subscriptions have not ended."
    )
    refusal_of(OperatorFactory(is_active=False), errors.UnknownUser)


def test_a_gift_that_has_expired_stands_in_nobodys_way(db: None) -> None:
    user, at = UserFactory(), timezone.now() - timedelta(days=1)
    with movable_clock(at - timedelta(days=5)) as put:
        ledger.give_bonus(user, amount=1, description="A gift", bonus_expires_at=at, **BY_PANEL)
        close(user)
        put(timezone.now())
        assert forget(user).user.forgotten_at is not None


def test_a_forgotten_user_stays_closed(ada: User) -> None:
    forget(ada)
    assert refusal_of(ada, errors.ForgottenUser) == (
        f"The user with ID {ada.pk} was forgotten: the personal data was erased."
    )
    with pytest.raises(errors.ForgottenUser):
        edit(ada, first_name="Ada")
    with pytest.raises(errors.ForgottenUser):
        edit(ada, is_active=True)
    with pytest.raises(errors.ForgottenUser):
        ledger.change_balance(ada, amount=1, description="Too late", **BY_PANEL)
    with pytest.raises(errors.ForgottenUser):
        subscribed(ada, PlanFactory())
    changed = operations.customers.set_active(Subject.USER, [ada.pk], is_active=True, **BY_PANEL)
    assert changed == 0


def test_a_dry_run_erases_nothing(ada: User) -> None:
    said = [row for _, row in texts()]
    assert str(forget(ada, dry_run=True).user) == f"Forgotten user No. {ada.pk}"
    assert [row for _, row in texts()] == said


# --- Attacks ------------------------------------------------------------------------------------

RIGHT = """UPDATE billing_event SET data = billing_erased(action, data)
    WHERE subject = 'user' AND subject_id = {user} AND data <> billing_erased(action, data)"""
ATTACKS = {
    "other data": "UPDATE billing_event SET data = '{{}}' WHERE subject_id = {user}",
    "another column": RIGHT.replace("SET data", "SET request_id = 'x', data"),
    "another digest": RIGHT.replace("SET data", "SET digest = sha256('x'), data"),
    "more than is erased": RIGHT.replace("(action, data)\n", "(action, data) || '{{\"x\": 1}}'\n"),
    "the same": "UPDATE billing_event SET data = data WHERE subject_id = {user}",
    "delete": "DELETE FROM billing_event WHERE subject_id = {user}",
}


@pytest.mark.as_owner
@pytest.mark.parametrize("is_forgotten", [False, True])
@pytest.mark.parametrize("attack", ATTACKS)
def test_events_are_erased_in_one_way_only(ada: User, attack: str, is_forgotten: bool) -> None:
    if is_forgotten:
        User.objects.filter(pk=ada.pk).update(forgotten_at=timezone.now())
    judge()
    with pytest.raises(DatabaseError, match="Events are append-only"), transaction.atomic():
        execute(ATTACKS[attack].format(user=ada.pk))


@pytest.mark.as_owner
def test_events_of_others_are_not_erased(ada: User) -> None:
    with pytest.raises(DatabaseError, match="Events are append-only"), transaction.atomic():
        execute(RIGHT.format(user=ada.pk))
    with pytest.raises(DatabaseError, match="Events are append-only"), transaction.atomic():
        execute("SELECT billing_forget(%s, NULL, 'panel')", [ada.pk])


@pytest.mark.as_owner
def test_an_erasure_without_its_record_is_refused_at_commit(ada: User) -> None:
    User.objects.filter(pk=ada.pk).update(forgotten_at=timezone.now())
    execute(RIGHT.format(user=ada.pk))
    with pytest.raises(DatabaseError, match="No event records that event"):
        judge()
    transaction.set_rollback(True)


def refused() -> Any:
    return pytest.raises(DatabaseError, match="does not say how a closed user was forgotten")


def forged(user_id: int, data: dict[str, Any], subject: Subject = Subject.USER) -> None:
    events.record(subject, user_id, "forgotten", actor=None, channel=Channel.PANEL, **data)
    judge()


def test_a_forged_record_is_refused(ada: User) -> None:
    """Also to the panel's role, which may call the function that writes events."""
    with refused(), transaction.atomic():
        forged(ada.pk, {"events": []})
    User.objects.filter(pk=ada.pk).update(forgotten_at=timezone.now())
    number = {"number": 2, "sha256": "00" * 32}
    for data in ({"events": [number]}, {"events": 5}, {}, {"events": [], "more": 1}):
        with refused(), transaction.atomic():
            forged(ada.pk, data)
    with refused(), transaction.atomic():
        forged(ada.pk, {"events": []}, Subject.PLAN)
    User.objects.filter(pk=ada.pk).update(forgotten_at=None)
    forget(ada)
    judge()
    with refused(), transaction.atomic():
        forged(ada.pk, dict(events_of(Subject.USER, ada.pk)[-1].data))


def forget_by_sql(user: User) -> None:
    execute("SELECT billing_forget(%s, NULL, 'panel')", [user.pk])
    judge()


def test_who_has_money_or_a_subscription_is_not_forgotten_by_sql(db: None) -> None:
    rich, subscriber = user_with(real=1), UserFactory()
    subscribed(subscriber, PlanFactory())
    for user in (rich, subscriber):
        close(user)
        User.objects.filter(pk=user.pk).update(forgotten_at=timezone.now())
        with refused(), transaction.atomic():
            forget_by_sql(user)


def with_triggers_off(*statements: str) -> None:
    judge()
    with as_owner():
        execute("ALTER TABLE billing_event DISABLE TRIGGER USER")
        for statement in statements:
            execute(statement)
        judge()
        execute("ALTER TABLE billing_event ENABLE TRIGGER USER")


@pytest.mark.as_owner
@pytest.mark.parametrize(
    ("statement", "number"),
    [
        ('UPDATE billing_event SET data = data || \'{{"name": "Eve"}}\' WHERE {its} = 1', 1),
        ("UPDATE billing_event SET data = data || '{{\"flag\": 3}}' WHERE {its} = 1", 1),
        ("UPDATE billing_event SET data = '{{\"name\": null}}' WHERE {its} = 1", 1),
        ("UPDATE billing_event SET data = data || '{{\"fields\": []}}' WHERE {its} = 2", 2),
        ("UPDATE billing_event SET data = '{{\"events\": []}}' WHERE {its} = 6", 1),
        ("UPDATE billing_event SET data = '{{\"events\": 5}}' WHERE {its} = 6", 1),
        ("UPDATE billing_event SET digest = sha256('x') WHERE {its} = 1", 1),
        ("UPDATE billing_event SET action = 'imported' WHERE {its} = 1", 1),
        ("UPDATE billing_event SET data = '{{\"x\": 1}}' WHERE {its} = 5", 5),
        ("DELETE FROM billing_event WHERE {its} = 6", 1),
    ],
)
def test_what_is_changed_afterwards_is_found(ada: User, statement: str, number: int) -> None:
    forget(ada)
    assert verify() == ""
    its = f"subject = 'user' AND subject_id = {ada.pk} AND number"
    with_triggers_off(statement.format(its=its))
    for arguments in ([], ["--user", f"{ada.pk}"]):
        assert f"Event {number} of user {ada.pk} breaks G9" in verify(*arguments)


@pytest.mark.as_owner
def test_an_event_that_was_changed_and_then_vouched_for_is_found(ada: User) -> None:
    """The owner appends a record of forgetting, with a right digest, that lists a changed event."""
    events.record(
        Subject.USER, ada.pk, "low_balance_changed", actor=None, channel=Channel.PANEL, x=1
    )
    judge()
    with_triggers_off(
        f"UPDATE billing_event SET data = '{{}}' WHERE subject_id = {ada.pk} AND number = 6",
        f"UPDATE users_user SET forgotten_at = now() WHERE id = {ada.pk}",
        f"""SELECT billing_note_events(jsonb_build_array(jsonb_build_object(
            'subject', 'user', 'subject_id', {ada.pk}, 'action', 'forgotten', 'data',
            jsonb_build_object('events', billing_erased_events({ada.pk}, 99)))), NULL, 'panel')""",
    )
    assert f"Event 6 of user {ada.pk} breaks G9" in verify()


@pytest.mark.as_owner
def test_a_record_of_somebody_who_was_not_forgotten_is_found(ada: User) -> None:
    with_triggers_off(
        f"""SELECT billing_note_events(jsonb_build_array(jsonb_build_object(
            'subject', 'user', 'subject_id', {ada.pk}, 'action', 'forgotten', 'data',
            '{{"events": []}}'::jsonb)), NULL, 'panel')"""
    )
    said = verify()
    assert f"Event 6 of user {ada.pk} breaks G9" in said
    assert "it says of a forgotten user, once, which events were erased" in said


def test_who_is_marked_as_not_forgotten_any_more_is_found(ada: User) -> None:
    forget(ada)
    judge()
    User.objects.filter(pk=ada.pk).update(forgotten_at=None)
    assert f"Event 1 of user {ada.pk} breaks G9" in verify()


# --- At once ------------------------------------------------------------------------------------


def test_money_that_comes_meanwhile_keeps_the_user_or_is_refused(
    connections: Connections,
) -> None:
    user = UserFactory(is_active=False)

    def work(n: int) -> Any:
        if n == 3:
            return forget(user)
        return ledger.change_balance(
            user, amount=1, description="A payment", actor=None, channel=Channel.API
        )

    outcomes = connections(8, work)
    user.refresh_from_db()
    paid = ledger.balance(user).real
    if user.forgotten_at is None:
        assert paid == 7
        assert isinstance(outcomes[3].error, errors.NotClosed)
    else:
        assert paid == 0
        assert sum(isinstance(o.error, errors.ForgottenUser) for o in outcomes) == 7
    call_command("verify_ledger", verbosity=0)


def test_a_person_is_forgotten_once(connections: Connections) -> None:
    user = UserFactory(is_active=False)
    noted(user)
    outcomes = connections(8, lambda n: forget(user))
    assert sum(outcome.error is None for outcome in outcomes) == 1
    assert {type(o.error) for o in outcomes if o.error} == {errors.ForgottenUser}
    call_command("verify_ledger", verbosity=0)
