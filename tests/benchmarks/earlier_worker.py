"""Measures the code that the working directory has: `earlier_worker NAME CALLS BATCH DUE ROWS`.

It reads names of works from its input, does each, and writes how many it did in a second.
"""

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import django
from django.conf import settings

USERS = 500


def main() -> None:
    name, *sizes = sys.argv[1:]
    settings.STORAGES["staticfiles"]["BACKEND"] = (
        "django.contrib.staticfiles.storage.StaticFilesStorage"
    )
    django.setup()
    from tests.benchmarks import database

    output = sys.stdout
    sys.stdout = sys.stderr  # what else is written is no answer
    database.TEMPLATE = f"benchmark_{name}_template"
    with database.template(), database.fresh_database(f"benchmark_{name}"):
        works = works_of(*map(int, sizes))
        output.write("ready\n")
        output.flush()
        for line in sys.stdin:
            output.write(f"{works[line.strip()]()}\n")
            output.flush()


def works_of(
    calls: int, batch: int, subscriptions: int, rows: int
) -> dict[str, Callable[[], float]]:
    from billing.models import WebhookEndpoint
    from tests.benchmarks import charging, database, posting, ways
    from tests.benchmarks.visits import Visitor, tab_of
    from users.models import User

    user_ids = database.make_users(USERS)
    charging.fill(subscriptions)
    endpoint = WebhookEndpoint.objects.create(
        name="Benchmark", url="https://example.com/", secret="benchmark", is_active=False,
        events=["transaction.posted"],
    )  # fmt: skip
    [reader] = User.objects.bulk_create([User(email="reader@example.com", password="!")])
    posting.post_entries([reader.pk], rows)
    visitor = Visitor()
    months = count()
    single = posting.rate_of(ways.LEDGER, user_ids)

    def with_endpoint() -> float:
        WebhookEndpoint.objects.filter(pk=endpoint.pk).update(is_active=True)
        try:
            return single(calls)
        finally:
            WebhookEndpoint.objects.filter(pk=endpoint.pk).update(is_active=False)

    def csv() -> float:
        lines, seconds = visitor.stream(f"{tab_of(reader)}?export=csv", rows=rows)
        return lines / seconds

    def run() -> float:
        month: Any = charging.first_of(next(months))
        return charging.run_rate(month, 1, subscriptions)[0]

    return {
        "single": lambda: single(calls),
        "webhooks": with_endpoint,
        "batch": lambda: posting.batch_rate(user_ids, batch),
        "run": run,
        "csv": csv,
    }


if __name__ == "__main__":
    main()
