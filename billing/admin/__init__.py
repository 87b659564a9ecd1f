"""The panel's pages about money. Django's autodiscovery imports this package alone, so it
imports all that registers something.
"""

from billing.admin import (
    api_keys,
    descriptions,
    jobs,
    login,
    low_balance,
    plans,
    runs,
    services,
    staff,
    subscription_list,
    transactions,
    users,
    webhook_deliveries,
    webhook_endpoints,
)

__all__ = [
    "api_keys",
    "descriptions",
    "jobs",
    "login",
    "low_balance",
    "plans",
    "runs",
    "services",
    "staff",
    "subscription_list",
    "transactions",
    "users",
    "webhook_deliveries",
    "webhook_endpoints",
]
