"""Makes transfers with django-hordak: `django_hordak_worker.py DATABASE HOST PORT USER PASSWORD`.

It reads numbers of transfers from its input, makes so many, and writes the seconds that they took.
It runs in an environment that has django-hordak and not the panel. Names are imported by
`importlib`, because the panel does not declare them.
"""

import importlib
import sys
from time import perf_counter
from typing import Any

import django
from django.conf import settings
from django.core.management import call_command

USERS = 500


def main() -> None:
    name, host, port, user, password = sys.argv[1:]
    settings.configure(
        SECRET_KEY="of the benchmark alone",
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mptt", "djmoney",
                        "hordak"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.postgresql",
                "NAME": name, "HOST": host, "PORT": port, "USER": user, "PASSWORD": password,
            }
        },
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        DEFAULT_CURRENCY="USD",
        CURRENCIES=("USD",),
    )  # fmt: skip
    django.setup()
    call_command("migrate", verbosity=0)
    models: Any = importlib.import_module("hordak.models")
    money: Any = importlib.import_module("moneyed").Money(1, "USD")
    pairs = [
        [
            models.Account.objects.create(name=f"{place} {kind}", type=kind, currencies=["USD"])
            for kind in ("IN", "LI")
        ]
        for place in range(USERS)
    ]
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.stdout.write("ready\n")
    for line in sys.stdin:
        started = perf_counter()
        for place in range(int(line)):
            outside, account = pairs[place % USERS]
            outside.transfer_to(account, money, description="Bank transfer")
        sys.stdout.write(f"{perf_counter() - started}\n")


if __name__ == "__main__":
    main()
