"""Calls that read plans, and what services cost under them."""

from typing import Any

from django.db.models import Prefetch, QuerySet
from django.http import HttpRequest, HttpResponse
from ninja import Query, Router

from billing import representations
from billing.api import cursors, etags
from billing.api.keys import RequiresPermission
from billing.api.problems import Problem
from billing.api.schemas import (
    CursorIn,
    Limit,
    Parameters,
    PathId,
    PlanOut,
    PlanPage,
    ProblemOut,
    ServicePage,
)
from billing.models import Plan, Service, ServicePrice

router = Router(tags=["Plans and services"])


class OfferFilters(Parameters):
    is_active: bool | None = None
    limit: Limit = 50
    cursor: CursorIn = None

    def page_of[Row: (Plan, Service)](self, rows: QuerySet[Row]) -> tuple[list[Row], str | None]:
        if self.is_active is not None:
            rows = rows.filter(is_active=self.is_active)
        of = str(rows.model._meta.model_name)
        if self.cursor is not None:
            [last] = cursors.from_text(of, self.cursor, 1)
            rows = rows.filter(pk__gt=last)
        found = list(rows.order_by("pk")[: self.limit + 1])
        page = found[: self.limit]
        return page, cursors.to_text(of, page[-1].pk) if len(found) > self.limit else None


@router.get(
    "/plans",
    auth=RequiresPermission("billing.view_plan"),
    response=PlanPage,
    summary="List plans",
    description="Each plan with its prices of services. Only active plans take new subscriptions.",
)
def list_plans(request: HttpRequest, filters: Query[OfferFilters]) -> dict[str, Any]:
    page, cursor = filters.page_of(_plans())
    return {"plans": [_plan(plan) for plan in page], "next_cursor": cursor}


@router.get(
    "/plans/{int:plan_id}",
    auth=RequiresPermission("billing.view_plan", tagged=True),
    response={200: PlanOut, 404: ProblemOut},
    summary="Read a plan",
)
def read_plan(request: HttpRequest, plan_id: PathId, response: HttpResponse) -> dict[str, Any]:
    plan = _plans().filter(pk=plan_id).first()
    if plan is None:
        raise Problem("not_found")
    answer = _plan(plan)
    etags.show(request, response, etags.tag_of(answer))
    return answer


@router.get(
    "/services",
    auth=RequiresPermission("billing.view_service"),
    response=ServicePage,
    summary="List services",
)
def list_services(request: HttpRequest, filters: Query[OfferFilters]) -> dict[str, Any]:
    page, cursor = filters.page_of(Service.objects.all())
    services = [
        {
            "id": service.pk,
            "code": service.code,
            "name": service.name,
            "unit": service.unit,
            "is_active": service.is_active,
        }
        for service in page
    ]
    return {"services": services, "next_cursor": cursor}


def _plans() -> QuerySet[Plan]:
    prices = ServicePrice.objects.select_related("service").order_by("service__code")
    return Plan.objects.prefetch_related(Prefetch("service_prices", prices))


def _plan(plan: Plan) -> dict[str, Any]:
    return {
        "id": plan.pk,
        "name": plan.name,
        "cycle": plan.cycle,
        "price": representations.amount(plan.price),
        "price_is_per": plan.price_is_per,
        "proportional_charge": plan.proportional_charge,
        "is_active": plan.is_active,
        "services": [
            {
                "service": offer.service.code,
                "name": offer.service.name,
                "unit": offer.service.unit,
                "price": representations.amount(offer.price),
            }
            for offer in plan.service_prices.all()
        ],
    }
