"""The pages about people.

Django's autodiscovery imports only this package, so it imports its modules. `billing.admin` adds
money and history to the admin classes, and registers them.
"""

from users.admin import groups, operators

__all__ = ["groups", "operators"]
