"""Webhooks sent by real workers, which are stopped or killed."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.embedded.server import Server
from tests.billing.receiver import OK, Receiver, answers, hangs, is_signed
from tests.config.processes import manage, wait_for
from tests.config.test_worker import Working, answer, change, connected

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
USER = """
from users.models import User
User.objects.create(email="ada@example.com")
"""
ENDPOINT = """
INSERT INTO billing_webhookendpoint (name, url, secret, events, is_active, created_at, failures)
VALUES ('CRM', '{url}', '{secret}', '{{transaction.posted}}', true, now(), 0)
"""
POST = """
SELECT billing_post(jsonb_build_array(jsonb_build_object(
    'user_id', user_id, 'type', 'payment', 'subtype', 'partner', 'description', 'Paid by card',
    'amount', '5'
)), NULL, 'api') FROM billing_balance JOIN users_user u ON u.id = user_id
WHERE u.email = 'ada@example.com'
"""
LONG_OVER = """
INSERT INTO billing_webhookevent (type, user_id, number, data, created_at)
SELECT 'transaction.posted', user_id, 1, '{}', now() - interval '31 days' FROM billing_balance
"""
LEFT = "SELECT count(*) FROM billing_webhookdelivery WHERE status <> 'delivered'"
LET_OTHERS_KNOW_THAT_IT_DIED = (
    "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '30 min'",
    "DELETE FROM procrastinate_periodic_defers",
)


@pytest.fixture(scope="module")
def with_user(prepared_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("webhooks") / "var"
    subprocess.run(["cp", "-a", prepared_data_dir, data_dir], check=True)
    made = manage("shell", "-v0", "-c", USER, DATA_DIR=str(data_dir))
    assert made.returncode == 0, made.stderr
    return data_dir


@pytest.fixture
def running(with_user: Path, tmp_path: Path) -> Iterator[Path]:
    """A data directory whose database this test keeps running."""
    data_dir = tmp_path / "var"
    subprocess.run(["cp", "-a", with_user, data_dir], check=True)
    server = Server.at(data_dir)
    server.ensure_running(database="billing")
    yield data_dir
    server.release()


@pytest.fixture
def receiver(running: Path) -> Iterator[Receiver]:
    with Receiver() as receiver:
        change(running, ENDPOINT.format(url=receiver.url, secret=SECRET))
        yield receiver


def working(data_dir: Path) -> Working:
    return Working(data_dir, WEBHOOK_PRIVATE_NETWORKS="127.0.0.0/8")


def wait_until_all_is_delivered(data_dir: Path) -> None:
    wait_for(lambda: answer(data_dir, LEFT) == 0)


def test_what_is_posted_is_sent_by_whatever_worker_there_is(
    running: Path, receiver: Receiver
) -> None:
    with working(running) as worker:
        for _ in range(3):
            change(running, POST)
        wait_until_all_is_delivered(running)
        assert worker.end() == 0
        assert worker.trouble == ""
    assert [message.number for message in receiver.messages] == [1, 2, 3]
    assert all(is_signed(message, SECRET) for message in receiver.messages)


def test_started_by_cron_a_worker_does_what_there_is_to_do_and_ends(
    running: Path, receiver: Receiver
) -> None:
    variables = {"DATA_DIR": str(running), "WEBHOOK_PRIVATE_NETWORKS": "127.0.0.0/8"}

    def once() -> None:
        done = manage("worker", "--once", **variables)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    for _ in range(3):
        change(running, POST)
    receiver.behave = answers(400)
    once()
    assert [message.number for message in receiver.messages] == [1]
    # The next attempt becomes due while no worker runs that could queue it.
    change(running, "UPDATE billing_webhookdelivery SET next_attempt_at = now()")
    change(running, LONG_OVER)
    receiver.behave = OK
    once()
    assert answer(running, LEFT) == 0
    assert [message.number for message in receiver.messages] == [1, 1, 2, 3]
    assert answer(running, "SELECT count(*) FROM billing_webhookevent") == 3, "it was tidied up"
    assert answer(running, "SELECT count(*) FROM billing_chargingrun") >= 1
    assert answer(running, "SELECT count(*) FROM procrastinate_workers") == 0


def test_where_there_is_no_database_a_worker_of_cron_says_so() -> None:
    done = manage("worker", "--once", DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    assert done.returncode == 1
    assert done.stderr.startswith("CommandError: The jobs were not run: ")


def test_what_a_killed_worker_had_sent_without_noting_it_is_sent_again(
    running: Path, receiver: Receiver
) -> None:
    change(running, POST)
    change(running, POST)
    with connected(running) as holder, holder.transaction():
        # The worker can read due deliveries and send them, but not write the result.
        holder.execute("LOCK TABLE billing_webhookattempt IN SHARE MODE")
        with working(running) as killed:
            wait_for(lambda: len(receiver.messages) == 2)
            killed.process.kill()
            killed.process.wait()
    assert answer(running, LEFT) == 2
    for statement in LET_OTHERS_KNOW_THAT_IT_DIED:
        change(running, statement)
    with working(running) as other:
        wait_until_all_is_delivered(running)
        assert other.end() == 0
        assert "A worker died with billing.tasks.send_webhooks" in other.said
    first, second, *again = receiver.messages
    assert [(message.id, message.body) for message in again] == [
        (first.id, first.body),
        (second.id, second.body),
    ]


def test_a_worker_killed_while_a_receiver_hangs_is_followed_by_another(
    running: Path, receiver: Receiver
) -> None:
    receiver.behave = hangs
    change(running, POST)
    with working(running) as killed:
        wait_for(lambda: len(receiver.messages) == 1)
        killed.process.kill()
        killed.process.wait()
    receiver.behave = OK
    for statement in LET_OTHERS_KNOW_THAT_IT_DIED:
        change(running, statement)
    with working(running):
        wait_until_all_is_delivered(running)
    assert len(set(receiver.ids)) == 1


def test_a_worker_that_is_told_to_end_does_not_wait_for_a_receiver_that_hangs(
    running: Path, receiver: Receiver
) -> None:
    receiver.behave = hangs
    change(running, POST)
    with working(running) as first:
        wait_for(lambda: len(receiver.messages) == 1)
        assert first.end() == 0
        assert first.trouble == ""
    assert answer(running, "SELECT count(*) FROM billing_webhookattempt") == 0, "nobody waited"
    receiver.behave = OK
    with working(running):
        wait_until_all_is_delivered(running)
