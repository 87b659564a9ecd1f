"""The panel's pages about money. Django's autodiscovery imports this package alone, so it
imports all that registers something.
"""

from billing.admin import descriptions, transactions, users

__all__ = ["descriptions", "transactions", "users"]
