"""Programs read plans and services."""

from billing.models import Service
from billing.plans.pricing import Cycle
from tests.api.rest.programs import Program, assert_problem, program_with
from tests.factories import PlanFactory, ServiceFactory, plan_with


def test_a_plan_has_its_prices(program: Program) -> None:
    sms = ServiceFactory(code="outgoing_sms", name="Outgoing SMS")
    traffic = ServiceFactory(code="traffic", name="Traffic", unit="MB")
    plan = plan_with(
        {traffic: "0.0125", sms: "0.3"},
        name="Business",
        price="12.55",
        cycle=Cycle.EVERY_DAY,
        proportional_charge=True,
    )
    told = program.get(f"/plans/{plan.pk}").json()
    assert told == {
        "id": plan.pk,
        "name": "Business",
        "cycle": "everyday",
        "price": "12.5500",
        "price_is_per": "month",
        "proportional_charge": True,
        "is_active": True,
        "services": [
            {
                "service": "outgoing_sms",
                "name": "Outgoing SMS",
                "unit": "",
                "price": "0.3000",
            },
            {"service": "traffic", "name": "Traffic", "unit": "MB", "price": "0.0125"},
        ],
    }
    assert program.get("/plans").json() == {"plans": [told], "next_cursor": None}
    assert_problem(program.get(f"/plans/{2**62}"), 404, "not_found")
    assert_problem(program.get(f"/plans/{2**63}"), 422, "invalid_request")


def test_plans_can_be_filtered_and_paged(program: Program) -> None:
    plans = [PlanFactory(is_active=n != 1).pk for n in range(4)]

    def found(query: str) -> list[int]:
        return [plan["id"] for plan in program.get(f"/plans{query}").json()["plans"]]

    assert found("") == plans
    assert found("?is_active=true") == [plans[0], plans[2], plans[3]]
    assert found("?is_active=false") == [plans[1]]
    page = program.get("/plans?limit=3").json()
    assert found(f"?limit=3&cursor={page['next_cursor']}") == [plans[3]]
    assert_problem(program.get("/plans?is_active=perhaps"), 422, "invalid_request")
    assert_problem(program.get("/plans?name=x"), 422, "invalid_request")


def test_services_are_listed(program: Program) -> None:
    before = list(Service.objects.order_by("pk").values_list("code", flat=True))
    ServiceFactory(code="fax", name="Fax", unit="page", is_active=False)
    services = program.get("/services?limit=200").json()["services"]
    assert [service["code"] for service in services] == [*before, "fax"]
    fax = services[-1]
    assert {**fax, "id": 0} == {
        "id": 0,
        "code": "fax",
        "name": "Fax",
        "unit": "page",
        "is_active": False,
    }
    active = program.get("/services?limit=200&is_active=true").json()["services"]
    assert "fax" not in [service["code"] for service in active]


def test_each_has_its_permission(db: None) -> None:
    plan = PlanFactory()
    viewer = program_with("billing.view_plan")
    assert viewer.get("/plans").status_code == 200
    assert viewer.get(f"/plans/{plan.pk}").status_code == 200
    refused = viewer.get("/services")
    assert_problem(refused, 403, "forbidden", permission="billing.view_service")
    assert program_with("billing.view_service").get("/services").status_code == 200
