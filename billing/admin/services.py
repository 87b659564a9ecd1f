"""The pages of services that are charged per use."""

from typing import Any, Final

from django.contrib import admin
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from unfold.decorators import display

from billing import reports
from billing.admin.configuration import ConfigurationAdmin
from billing.models import Service, Subject

LOOK_MAX_SECONDS: Final = 5


@admin.register(Service)
class ServiceAdmin(ConfigurationAdmin):
    history_subject = Subject.SERVICE
    list_display = ["name", "service_code", "unit", "state", "in_plans"]
    search_fields = ["name", "code"]
    fields = ["name", "code", "unit", "is_active"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        services: QuerySet[Service] = super().get_queryset(request)
        return services.annotate(plan_count=Count("prices"))

    def get_readonly_fields(self, request: HttpRequest, obj: Service | None = None) -> list[str]:
        return ["code"] if obj else []

    def get_form(
        self,
        request: HttpRequest,
        obj: Service | None = None,
        change: bool = False,  # noqa: FBT001, FBT002 - Django's signature
        **kwargs: Any,
    ) -> Any:
        if obj:
            kwargs["help_texts"] = {
                "code": "Transactions refer to the service by its code, so it cannot be changed. "
                "If you need another, retire this service and add a new one."
            }
        return super().get_form(request, obj, change, **kwargs)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        obj = kwargs.get("obj")
        if obj and self._why_priced(obj):
            # Whether it was ever charged is checked only for deleting.
            context |= {
                "show_delete": False,
                "notes": [
                    "Plans have a price for this service, so it cannot be deleted. "
                    "Clear “Active” to retire it: then nobody can be charged for it."
                ],
            }
        return super().render_change_form(request, context, *args, **kwargs)

    def why_kept(self, obj: Service) -> str | None:
        if why := self._why_priced(obj):
            return why
        kept = f"“{obj}” cannot be deleted: "
        instead = " Retire it instead: clear “Active”."
        try:
            with reports.time_limit(LOOK_MAX_SECONDS):
                charged = reports.was_charged(obj.code)
        except reports.TooSlow:
            return f"{kept}it could not be checked in time whether it was ever charged.{instead}"
        return f"{kept}users have been charged for it.{instead}" if charged else None

    @staticmethod
    def _why_priced(obj: Service) -> str | None:
        count = obj.prices.count()
        if not count:
            return None
        plans = "a plan has a price" if count == 1 else f"{count} plans have a price"
        return f"“{obj}” cannot be deleted: {plans} for it. Retire it instead: clear “Active”."

    @display(description="code", ordering="code")
    def service_code(self, service: Service) -> str:
        return service.code

    @display(
        description="status",
        ordering="is_active",
        label={"Active": "success", "Retired": "warning"},
    )
    def state(self, service: Service) -> str:
        return "Active" if service.is_active else "Retired"

    @display(description="in plans", ordering="plan_count")
    def in_plans(self, service: Service) -> int:
        return service.plan_count  # type: ignore[attr-defined, no-any-return]
