"""One scrape adds up the counts of several processes: web processes, workers and commands."""

import json
import os
import signal
from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from billing.models import Heartbeat
from tests.api.rest.programs import program_of_administrator
from tests.config.processes import is_running, manage, wait_for
from tests.config.test_metrics import Figures, figures, value
from tests.config.web import Answer, Web, address_of_database
from tests.factories import PlanFactory, subscribed, user_with
from users.models import User


@pytest.fixture
def key(committed_db: None) -> str:
    return program_of_administrator().secret


def change(web: Web, key: str, user: User, amount: str) -> Answer:
    return web.post(
        f"/api/v1/users/{user.pk}/balance-changes",
        json.dumps({"description": "Bank transfer", "amount": amount}),
        Authorization=f"Bearer {key}",
        Content_Type="application/json",
    )


def scraped(web: Web) -> Figures:
    answer = web.get("/metrics")
    assert answer.status == 200, answer.text
    return figures(answer.text)


def postings(web: Web) -> float:
    return value(scraped(web), "billing_postings_total", type="payment", channel="api")


def refusals(web: Web) -> float:
    return value(scraped(web), "billing_refusals_total", code="insufficient_funds", channel="api")


def web_workers(web: Web) -> list[int]:
    children = Path(f"/proc/{web.process.pid}/task/{web.process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def stopped(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state == "T"


def test_what_two_processes_did_is_one_sum_whichever_is_asked(key: str, tmp_path: Path) -> None:
    user = user_with(1)
    # With a long timeout, or gunicorn would kill the worker that is stopped.
    with Web(tmp_path, workers=2, GUNICORN_CMD_ARGS="--timeout=600") as web:
        wait_for(lambda: web.said.count("Worker ready") == 2)
        first, second = web_workers(web)
        for times, asleep in enumerate((first, second), start=1):  # so that each does a part
            os.kill(asleep, signal.SIGSTOP)
            wait_for(lambda pid=asleep: stopped(pid))
            assert [change(web, key, user, "5").status for _ in range(3)] == [201] * 3
            assert [change(web, key, user, "-900").status for _ in range(2)] == [402] * 2
            assert (postings(web), refusals(web)) == (3 * times, 2 * times)
            os.kill(asleep, signal.SIGCONT)
        for asleep in (first, second):
            os.kill(asleep, signal.SIGSTOP)
            wait_for(lambda pid=asleep: stopped(pid))
            assert (postings(web), refusals(web)) == (6, 4)
            os.kill(asleep, signal.SIGCONT)
        requests = {
            dict(labels)["status"]: number
            for (name, labels), number in scraped(web).items()
            if name == "billing_http_requests_total"
        }
        assert requests == {"201": 6, "402": 4}


def test_counts_outlive_the_processes_and_their_files_do_not_grow_in_number(
    key: str, tmp_path: Path
) -> None:
    user = user_with(1)
    with Web(tmp_path, workers=1) as web:
        for times in range(1, 4):
            assert change(web, key, user, "5").status == 201
            [killed] = web_workers(web)
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda pid=killed: not is_running(pid))
            wait_for(lambda: web.get("/healthz").status == 200)
            assert postings(web) == times
        files = sorted(file.name for file in (tmp_path / "metrics").glob("*/*.db"))
        assert files == ["counter_1.db", "histogram_1.db"]
    with Web(tmp_path, workers=1) as web:
        assert postings(web) == 3


def test_what_a_worker_and_a_command_posted_is_seen_in_the_panel(key: str, tmp_path: Path) -> None:
    day = timezone.now().date() - timedelta(days=1)
    charged = {"type": "main_charge", "channel": "charging"}
    subscription = subscribed(user_with(1000), PlanFactory(price=30, cycle="everyday"), day=day)
    Heartbeat.objects.all().delete()
    place = {"DATABASE_URL": address_of_database(), "DATA_DIR": str(tmp_path)}
    with Web(tmp_path, workers=1) as web:
        ready = json.loads(web.get("/readyz").text)
        assert "worker_silent" in [each["code"] for each in ready["warnings"]]
        done = manage("worker", "--once", **place)
        assert done.returncode == 0, done.stderr
        found = scraped(web)
        assert value(found, "billing_postings_total", **charged) == 1
        assert value(found, "billing_charging_charges_total") == 1
        assert value(found, "billing_charging_last_run_results", result="charged") == 1
        assert value(found, "billing_charging_due_subscriptions") == 0
        assert 0 <= value(found, "billing_worker_heartbeat_age_seconds") < 900
        ready = json.loads(web.get("/readyz").text)
        assert (ready["status"], ready["warnings"]) == ("ok", [])

        subscribed(user_with(1000), subscription.plan, device="1", day=day)
        done = manage("charge_due", **place)
        assert done.returncode == 0, done.stderr
        assert value(scraped(web), "billing_postings_total", **charged) == 2


COUNT = """
import os, sys
from pathlib import Path
from billing import counters
print(counters.keep_in(Path({directory!r})))
counters.api_problem("rest", "not_found")
if not os.fork():
    counters.api_problem("rest", "not_found")
    os._exit(0)
os.wait()
print(*[s.value for m in counters.collect() if m.name == "billing_api_problems" for s in m.samples])
"""


def counting(directory: Path) -> list[str]:
    done = manage("shell", "-v0", "-c", COUNT.format(directory=str(directory)))
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_files_that_cannot_be_read_begin_anew_and_those_of_another_version_are_removed(
    tmp_path: Path,
) -> None:
    earlier = tmp_path / "metrics" / "earlier"
    earlier.mkdir(parents=True)
    (earlier / "counter_1.db").write_bytes(b"x")
    assert counting(tmp_path / "metrics") == ["True", "2.0"]
    [directory] = (tmp_path / "metrics").iterdir()
    assert directory != earlier
    (directory / "counter_1.db").write_bytes(b"\xff" * 100)
    assert counting(tmp_path / "metrics") == ["True", "3.0"]
    assert counting(tmp_path / "metrics") == ["True", "5.0"]


def test_where_nothing_can_be_written_counts_stay_in_the_process(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("no directory")
    assert counting(tmp_path / "metrics") == ["False", "1.0"]


def test_a_token_opens_the_metrics_of_gunicorn(committed_db: None, tmp_path: Path) -> None:
    with Web(
        tmp_path, workers=1, METRICS_TOKEN="a-long-random-text", METRICS_NETWORKS="10.0.0.0/8"
    ) as web:
        assert web.get("/metrics").status == 403
        assert web.get("/metrics", Authorization="Bearer a-long-random-text").status == 200
