"""The panel's pages about money.

Django's autodiscovery imports only this package, so it imports every module that registers a page.
"""

from billing.admin import (
    api_keys,
    batches,
    jobs,
    login,
    low_balance,
    plans,
    reasons,
    runs,
    services,
    staff,
    subscription_list,
    transaction_page,
    users,
    vouchers,
    webhook_deliveries,
    webhook_endpoints,
)

__all__ = [
    "api_keys",
    "batches",
    "jobs",
    "login",
    "low_balance",
    "plans",
    "reasons",
    "runs",
    "services",
    "staff",
    "subscription_list",
    "transaction_page",
    "users",
    "vouchers",
    "webhook_deliveries",
    "webhook_endpoints",
]
