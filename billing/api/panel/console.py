"""Further calls that a console makes: about the dealer, time zones and menus.

Most of what they ask for does not exist here. The answer then is an empty list or null.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final
from zoneinfo import ZoneInfo

from django.conf import settings
from django.http import HttpRequest

from billing.api.panel.calls import Call
from billing.api.panel.parameters import MAX_ROWS, Parameters
from billing.api.panel.transactions import DEALER_ID
from billing.models import Subscription, UserDefaults
from billing.money import ZERO
from users.models import time_zones

FOR_EVER: Final = "P100Y"  # ISO 8601: the ledger is kept without limit
# The minimum of Django's validator of operators' passwords, and the maximum of the form.
PASSWORD_LENGTHS: Final = (8, 128)


def dealer_info(call: Call) -> dict[str, Any]:
    """Returns this installation as the only dealer: not blocked, without limits, without debts."""
    devices = Subscription.objects.live().exclude(device="").count()
    shortest, longest = PASSWORD_LENGTHS
    return {
        "id": DEALER_ID,
        "seller_id": DEALER_ID,
        "parent_dealer_id": DEALER_ID,
        "contract_type": "PAAS",
        "tariff_id": DEALER_ID,
        "tariff": {
            "id": DEALER_ID,
            "name": "",
            "type": "monthly",
            "algorithm": "plain",
            "gis_package": "",
            "currency": settings.BILLING_CURRENCY,
            "license_price": None,
            "min_license_pay": None,
            "vat": False,
            "trial": False,
            "premium_gis": False,
            "service_prices": {},
            "store_period": FOR_EVER,
        },
        "demo_tariff": False,
        "tracker_tariff_end_date": None,
        "store_period": FOR_EVER,
        "demo_ends": None,
        "title": settings.SITE_NAME,
        "block_status": "NOT_BLOCKED",
        "legal_name": "",
        "active_amount": devices,
        "active_amount_own": devices,
        "active_amount_subpaas": 0,
        "active_limit": MAX_ROWS,
        "locale": "en_US",
        "domain": "",
        "favicon": None,
        "logo": None,
        "subpaas": False,
        "allow_branding": False,
        "password_policy": {
            "min_length": shortest,
            "max_length": longest,
            "special_chars": "",
            "min_special_chars_count": 0,
            "min_digits_count": 0,
            "min_uppercase_count": 0,
            "min_lowercase_count": 0,
        },
        "paas_activation_date": None,
        "license_balance": ZERO,
        "seller_currency": settings.BILLING_CURRENCY,
        "features": [],
        "default_user_time_zone": settings.TIME_ZONE,
    }


def plan_defaults(call: Call) -> dict[str, Any]:
    """Returns the defaults of plans: none for devices; for users, the plan for new users."""
    return {
        "tracker": {
            "tariff_id": UserDefaults.objects.values_list("plan", flat=True).first(),
            "activation_bonus": ZERO,
            "free_days": 0,
            "free_days_device_limit": None,
        }
    }


def no_list(call: Call) -> dict[str, Any]:
    """Returns an empty list: these things do not exist here."""
    return {"list": []}


def no_menu(call: Call) -> dict[str, Any]:
    """Returns an empty menu: customers have none here. The customer has to exist."""
    if call.parameters.has("user_id"):
        call.customer()
    return {"value": []}


def no_second_factor(call: Call) -> dict[str, Any]:
    """Returns no settings: customers do not log in here, so they have no second factor."""
    return {"value": None}


# --- Time zones ---------------------------------------------------------------------------------


def list_time_zones(request: HttpRequest, parameters: Parameters, now: datetime) -> dict[str, Any]:
    """Returns the time zones of cities, with their hours from UTC at `now`.

    `locale` is validated; the names are English in every locale.
    """
    if parameters.has("locale"):
        parameters.text("locale", longest=35)
    zones = [_time_zone(name, country, now) for name, country in countries_of_zones().items()]
    return {"list": zones}


@cache  # reads a file
def countries_of_zones() -> Mapping[str, str]:
    """Returns the country (ISO 3166) of each time zone that has one, sorted by zone."""
    table = files("tzdata.zoneinfo").joinpath("zone.tab").read_text("utf-8")
    rows = (line.split("\t") for line in table.splitlines() if not line.startswith("#"))
    known = time_zones()
    return {name: code for name, code in sorted((row[2], row[0]) for row in rows) if name in known}


def _time_zone(name: str, country: str, now: datetime) -> dict[str, Any]:
    zone = ZoneInfo(name)
    # The smaller offset of winter and summer is standard time, north and south. (Ireland's
    # tables have it the other way round, with a winter time of minus one hour.)
    halves = (_offset(now.replace(month=month, day=1), zone) for month in (1, 7))
    base = min(*halves)
    return {
        "zone_id": name,
        "description": name.rpartition("/")[2].replace("_", " "),
        "base_offset": _hours(base),
        "dst_offset": _hours(_offset(now, zone) - base),
        "country_code": country,
    }


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    return moment.astimezone(zone).utcoffset() or timedelta()


def _hours(span: timedelta) -> Decimal:
    """Returns exact hours: zones differ by quarters of an hour."""
    return Decimal(span // timedelta(minutes=15)) / 4
