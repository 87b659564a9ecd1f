"""`make benchmark`; options through ARGS, e.g. `make benchmark ARGS="--rounds 5 --write"`."""

import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator

import django
from django.conf import settings

PARTS = ("posting", "hot", "http", "charging", "tab", "pages")


def main() -> None:
    options = _options()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    # Pages need the addresses of static files, which are not collected here.
    settings.STORAGES["staticfiles"]["BACKEND"] = (
        "django.contrib.staticfiles.storage.StaticFilesStorage"
    )
    django.setup()
    from tests.benchmarks import report
    from tests.benchmarks.database import own_database

    with own_database():
        lines = list(_measure(options))
        page = report.written(lines, arguments=sys.argv[1:])
    sys.stdout.write(page)
    if options.write:
        report.PAGE.write_text(page)


def _options() -> Namespace:
    parser = ArgumentParser(prog="make benchmark", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each part [%(default)s]")
    parser.add_argument("--calls", type=int, default=200, help="calls per round [%(default)s]")
    parser.add_argument(
        "--transactions",
        type=int,
        default=10_000_000,
        help="transactions in the table for the tab [%(default)s]; a tenth belongs to one user",
    )
    parser.add_argument(
        "--subscriptions",
        type=int,
        default=200_000,
        help="subscriptions due at once in the charging run, four per user [%(default)s]",
    )
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS, help="parts to measure")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    return parser.parse_args()


def _measure(options: Namespace) -> Iterator["report.Line"]:  # noqa: F821
    from tests.benchmarks import api, charging, posting, tab

    user_ids = posting.make_users()
    if "posting" in options.only:
        yield from posting.measure_single_and_batch(
            user_ids, rounds=options.rounds, calls=options.calls
        )
    if "hot" in options.only:
        yield from posting.measure_hot(
            user_ids, rounds=options.rounds, calls=max(1, options.calls // 4)
        )
    if "http" in options.only:
        yield from api.measure_http(user_ids, rounds=options.rounds, calls=options.calls)
    if "charging" in options.only:
        charging.fill(options.subscriptions)
        yield from charging.measure_charging(
            subscriptions=options.subscriptions, rounds=max(1, options.rounds // 5)
        )
    if {"tab", "pages"} & set(options.only):
        long, short = tab.fill(options.transactions)
        sizes = {"transactions": options.transactions, "rounds": options.rounds}
        if "tab" in options.only:
            yield from tab.measure_tab(long, short, **sizes)
        if "pages" in options.only:
            yield from api.measure_pages(long, short, **sizes)


if __name__ == "__main__":
    main()
