from billing.models.answers import KeptAnswer
from billing.models.balances import Balance
from billing.models.batches import Batch
from billing.models.credentials import ApiAllowance, ApiKey, ApiSession
from billing.models.events import Event, EventChannel, Subject
from billing.models.exports import Export, ExportPart
from billing.models.grants import Grant, GrantUse
from billing.models.groups import GroupDefault
from billing.models.moments import Activation, PlanTerms
from billing.models.plans import Plan, Service, ServicePrice, UserDefaults
from billing.models.reasons import Reason
from billing.models.runs import ChargingBatch, ChargingFailure, ChargingRun, Heartbeat, Proof
from billing.models.subscriptions import ActiveDay, Subscription
from billing.models.transactions import (
    Channel,
    Label,
    Reference,
    Transaction,
    TransactionType,
    subtype_label,
)
from billing.models.turnovers import KeptSums, Turnover, UserCount
from billing.models.vouchers import Voucher, VoucherRedemption
from billing.models.webhooks import (
    EventType,
    LowBalanceThreshold,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
    WebhookEvent,
)

__all__ = [
    "Activation",
    "ActiveDay",
    "ApiAllowance",
    "ApiKey",
    "ApiSession",
    "Balance",
    "Batch",
    "Channel",
    "ChargingBatch",
    "ChargingFailure",
    "ChargingRun",
    "Event",
    "EventChannel",
    "EventType",
    "Export",
    "ExportPart",
    "Grant",
    "GrantUse",
    "GroupDefault",
    "Heartbeat",
    "KeptAnswer",
    "KeptSums",
    "Label",
    "LowBalanceThreshold",
    "Plan",
    "PlanTerms",
    "Proof",
    "Reason",
    "Reference",
    "Service",
    "ServicePrice",
    "Subject",
    "Subscription",
    "Transaction",
    "TransactionType",
    "Turnover",
    "UserCount",
    "UserDefaults",
    "Voucher",
    "VoucherRedemption",
    "WebhookAttempt",
    "WebhookDelivery",
    "WebhookEndpoint",
    "WebhookEvent",
    "subtype_label",
]
