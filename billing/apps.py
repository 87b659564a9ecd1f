from django.apps import AppConfig
from django.db.models.signals import post_migrate


class BillingConfig(AppConfig):
    name = "billing"
    verbose_name = "Billing"

    def ready(self) -> None:
        from billing.authority.groups import grant_defaults_after_migrate

        post_migrate.connect(grant_defaults_after_migrate, sender=self)
