from billing.models.balances import Balance
from billing.models.descriptions import StandardDescription
from billing.models.transactions import Channel, Transaction, TransactionType, subtype_label

__all__ = [
    "Balance",
    "Channel",
    "StandardDescription",
    "Transaction",
    "TransactionType",
    "subtype_label",
]
