"""Marking duplicates and forgetting persons over REST."""

from typing import Any

import pytest

from billing import ledger, operations
from billing.models import KeptAnswer, Subject
from tests.api.panel.client import Program as PanelProgram
from tests.api.rest.programs import (
    Program,
    assert_problem,
    program_of_administrator,
    program_with,
)
from tests.billing.histories import BY_PANEL
from tests.billing.test_forgetting import ADA, remains
from tests.factories import AdministratorFactory, UserFactory, user_with
from tests.operators import client_of, sent_by
from users.models import User

# The fields over REST are the columns.
PROFILE = {name: value for name, value in ADA.items() if name != "email"}


@pytest.fixture
def program(db: None) -> Program:
    return program_of_administrator()


def test_a_duplicate_and_the_user_who_is_kept_are_answered(program: Program) -> None:
    user, kept = user_with(real=10, bonus=3), user_with(real=1)
    preview = program.post(f"/users/{user.pk}/merge/preview", {"into_user_id": kept.pk}).json()
    assert (preview["duplicate"]["is_active"], preview["user"]["balance"]) == (
        False,
        {"real": "11.0000", "bonus": "3.0000", "number": 3},
    )
    assert [each["user_id"] for each in preview["transactions"]] == [user.pk] * 2 + [kept.pk] * 2
    assert ledger.balance(user)[:2] == (10, 3)
    body = {"into_user_id": kept.pk, "description": "Called on Monday"}
    done = program.post(f"/users/{user.pk}/merge", body, key="merge-1")
    assert done.status_code == 200
    answer = done.json()
    assert answer["duplicate"]["duplicate_of"] == kept.pk
    assert answer["duplicate"]["balance"] == {"real": "0.0000", "bonus": "0.0000", "number": 3}
    assert answer["user"] == program.get(f"/users/{kept.pk}").json()
    assert {each["description"] for each in answer["transactions"]} == {"Called on Monday"}
    assert all(each["metadata"]["request_id"] for each in answer["transactions"])
    again = program.post(f"/users/{user.pk}/merge", body, key="merge-1")
    assert (again.json(), again["Idempotency-Replayed"]) == (answer, "true")
    refusal = program.post(
        f"/users/{user.pk}/balance-changes", {"description": "A payment", "amount": "5"}
    )
    assert_problem(refusal, 409, "duplicate_user", user_id=user.pk, duplicate_of=kept.pk)


def test_balances_are_left_out_without_the_permission(db: None) -> None:
    user, kept = user_with(real=10), UserFactory()
    program = program_with("users.merge_user")
    body = {"into_user_id": kept.pk}
    answer = program.post(f"/users/{user.pk}/merge", body).json()
    assert (answer["user"]["balance"], answer["duplicate"]["balance"]) == (None, None)


def test_what_cannot_be_merged_is_refused(program: Program) -> None:
    user = UserFactory()

    def merged_into(user_id: int, **more: Any) -> Any:
        return program.post(f"/users/{user.pk}/merge", {"into_user_id": user_id} | more)

    assert_problem(merged_into(user.pk), 409, "same_user", user_id=user.pk)
    assert_problem(merged_into(999_999), 404, "unknown_user", user_id=999_999)
    inactive = UserFactory(is_active=False).pk
    assert_problem(merged_into(inactive), 409, "user_deactivated", user_id=inactive)
    assert_problem(merged_into(0), 422, "invalid_request")
    assert_problem(merged_into(user.pk, more=1), 422, "invalid_request")


def test_who_is_forgotten_is_answered_with_placeholders(program: Program) -> None:
    user, twin = UserFactory(**ADA), UserFactory(email="quetzalcoatl@xylophone.example")
    program.post(f"/users/{twin.pk}/merge", {"into_user_id": user.pk})
    refused = program.post(f"/users/{user.pk}/forget", None)
    assert_problem(
        refused, 409, "not_closed", is_active=True, real="0.0000", bonus="0.0000", subscriptions=0
    )
    program.patch(f"/users/{user.pk}", {"is_active": False})
    done = program.post(f"/users/{user.pk}/forget", None, key="forget-1")
    assert done.status_code == 200
    answer = done.json()
    assert answer["user"]["email"] == f"forgotten-{user.pk}@forgotten.invalid"
    assert (answer["user"]["first_name"], answer["user"]["phone"]) == ("Forgotten user", "")
    assert answer["user"]["forgotten_at"]
    assert [each["id"] for each in answer["duplicates"]] == [twin.pk]
    again = program.post(f"/users/{user.pk}/forget", None, key="forget-1")
    assert (again.json(), again["Idempotency-Replayed"]) == (answer, "true")
    assert answer["user"] == program.get(f"/users/{user.pk}").json()
    assert_problem(program.post(f"/users/{user.pk}/forget", None), 409, "forgotten_user")
    assert_problem(program.patch(f"/users/{user.pk}", {"is_active": True}), 409, "forgotten_user")


def test_nothing_is_left_of_a_person_who_was_written_in_every_way(program: Program) -> None:
    body = {"email": ADA["email"]} | PROFILE
    added = program.post("/users", body, key="add-1").json()
    user = User.objects.get(pk=added["id"])
    program.patch(f"/users/{user.pk}", {"city": "Strelsau II"}, key="edit-1")
    program.patch(f"/users/{user.pk}", {"city": ADA["city"]}, key="edit-2")
    panel_api = PanelProgram(AdministratorFactory())
    value = panel_api("user/read", user_id=user.pk)["value"]
    changed = value | {"middle_name": "Xylophonia", "balance": 0, "bonus": 0}
    assert panel_api("user/update", user=changed, comment=ADA["comment"]).code is None
    panel = client_of(AdministratorFactory())
    address = f"/admin/users/user/{user.pk}/change/"
    sent = sent_by(panel.get(address)) | {"middle_name": ADA["middle_name"]}
    assert panel.post(address, sent).status_code == 302
    operations.customers.set_active(Subject.USER, [user.pk], is_active=False, **BY_PANEL)
    assert remains(ADA)
    forgotten = program.post(f"/users/{user.pk}/forget", None, key="forget-1")
    assert forgotten.status_code == 200
    assert remains(ADA | {"more": "Xylophonia", "city": "Strelsau"}) == []
    for call, sent_again in (("POST", body), ("PATCH", {"city": "Strelsau II"})):
        path, key = ("/users", "add-1") if call == "POST" else (f"/users/{user.pk}", "edit-1")
        assert_problem(program.call(call, path, sent_again, key=key), 409, "idempotency_conflict")
    assert KeptAnswer.objects.exclude(answer="").count() == 1  # that of forgetting
    assert program.get("/users?search=quetzalcoatl").json()["users"] == []
    exported = panel_api.post("user/export", '{"format": "csv"}').content.decode()
    assert f"forgotten-{user.pk}@forgotten.invalid" in exported
    assert "Quetzalcoatl" not in exported


def test_programs_of_the_panel_api_are_told_who_is_kept(db: None) -> None:
    user, kept = UserFactory(), UserFactory()
    program_of_administrator().post(f"/users/{user.pk}/merge", {"into_user_id": kept.pk})
    panel_api = PanelProgram(AdministratorFactory())
    answer = panel_api(
        "user/transaction/change_balance",
        user_id=user.pk,
        type="balance",
        amount=5,
        text="Card payment 7",
    )
    said = f"User {user.pk} is a duplicate. The user who is kept has the ID {kept.pk}."
    assert (answer.code, answer.wrong) == (7, {"duplicate_user": said})
    value = panel_api("user/read", user_id=user.pk)["value"]
    activated = panel_api(
        "user/update",
        user=value | {"activated": True, "balance": 0, "bonus": 0},
        comment="",
    )
    assert (activated.code, list(activated.wrong)) == (7, ["duplicate_user"])
