"""manage.py create_api_key."""

import io
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from billing import authority
from billing.models import ApiKey, Subject
from tests.factories import OperatorFactory, UserFactory
from tests.recorded import events_of, sentences_of

pytestmark = pytest.mark.django_db


def create(*arguments: str) -> str:
    out = io.StringIO()
    call_command("create_api_key", *arguments, stdout=out)
    return out.getvalue()


def test_it_prints_a_working_key_and_nothing_else() -> None:
    operator = OperatorFactory(email="olga@example.com")
    printed = create("--owner", "Olga@Example.com", "--name", " curl ")
    key = authority.find_key(printed.removesuffix("\n"), timezone.now())
    assert key
    assert (key.name, key.owner_id, key.created_by_id) == ("curl", operator.pk, operator.pk)
    assert (key.is_read_only, key.expires_at) == (False, None)
    [event] = events_of(Subject.API_KEY, key.pk)
    assert (event.actor, event.channel) == (operator, "command")
    assert sentences_of(Subject.API_KEY, key.pk) == [
        f"Added. Name: “curl”; Begins with: {key.prefix}; Owner: {operator} "
        "(olga@example.com); Read only: no; Expires: never."
    ]
    assert sentences_of(Subject.OPERATOR, operator.pk) == [
        f"API key “curl” ({key.prefix}…) was added."
    ]


def test_it_makes_a_key_that_only_reads_and_ends() -> None:
    OperatorFactory(email="olga@example.com")
    before = timezone.now()
    create("--owner", "olga@example.com", "--name", "CRM", "--read-only", "--expires", "7")
    key = ApiKey.objects.get()
    assert key.is_read_only
    assert key.expires_at
    assert before <= key.expires_at - timedelta(days=7) <= timezone.now()


@pytest.mark.parametrize(
    "owner", ["nobody@example.com", "customer@example.com", "gone@example.com"]
)
def test_only_active_operators_own_keys(owner: str) -> None:
    UserFactory(email="customer@example.com")
    OperatorFactory(email="gone@example.com", is_active=False)
    with pytest.raises(CommandError, match=f"“{owner}” is not the login of an active operator."):
        create("--owner", owner, "--name", "curl")
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--name", " "), "--name: This field cannot be blank."),
        (("--name", "x" * 61), "--name: .*at most 60 characters"),
        (("--name", "curl", "--expires", "0"), "“0” is not a whole number of days from 1 to"),
        (("--name", "curl", "--expires", "-1"), "“-1” is not a whole number of days"),
        (("--name", "curl", "--expires", "1.5"), "“1.5” is not a whole number of days"),
        (("--name", "curl", "--expires", "36501"), "“36501” is not a whole number of days"),
        ((), "--name"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], problem: str) -> None:
    OperatorFactory(email="olga@example.com")
    with pytest.raises(CommandError, match=problem):
        create("--owner", "olga@example.com", *arguments)
    assert not ApiKey.objects.exists()
