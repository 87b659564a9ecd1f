"""The pages about people. Django's autodiscovery imports this package alone, so it imports all.

They are registered by `billing.admin`, which adds what it knows about money and history.
"""

from users.admin import groups, operators

__all__ = ["groups", "operators"]
