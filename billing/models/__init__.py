from billing.models.balances import Balance
from billing.models.descriptions import StandardDescription
from billing.models.plans import Plan, Service, ServicePrice, UserDefaults
from billing.models.runs import ChargingBatch, ChargingFailure, ChargingRun
from billing.models.subscriptions import ActiveDay, Subscription
from billing.models.transactions import Channel, Transaction, TransactionType, subtype_label

__all__ = [
    "ActiveDay",
    "Balance",
    "Channel",
    "ChargingBatch",
    "ChargingFailure",
    "ChargingRun",
    "Plan",
    "Service",
    "ServicePrice",
    "StandardDescription",
    "Subscription",
    "Transaction",
    "TransactionType",
    "UserDefaults",
    "subtype_label",
]
