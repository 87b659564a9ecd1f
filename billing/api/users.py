"""Calls about users, that is, customers. Operators' accounts are not found here."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from ninja import Query, Router
from ninja.responses import Status
from pydantic import Field

from billing import operations, reports, representations
from billing.api import cursors, etags
from billing.api.keys import RequiresPermission, actor, may
from billing.api.problems import Problem
from billing.api.schemas import (
    CursorIn,
    ForgottenOut,
    Limit,
    MergedOut,
    MergeIn,
    MergePreviewOut,
    Parameters,
    PathId,
    ProblemOut,
    Text,
    UserFields,
    UserIn,
    UserOut,
    UserPage,
)
from billing.api.today import utc_today
from billing.errors import UnknownUser
from billing.models import Channel
from users.models import User
from users.search import search

router = Router(tags=["Users"])

SEARCH_SECONDS: Final = 10
NOT_MERGED: Final = {402: ProblemOut, 404: ProblemOut, 409: ProblemOut, 422: ProblemOut}
PLAIN_FIELDS = [name for name in UserFields.model_fields if name != "is_active"]


class UserFilters(Parameters):
    search: Text = Field(
        "",
        max_length=200,
        description="Words that must all be found in the name, e-mail, phone, numbers or address. "
        "Case, accents and the grouping of digits make no difference. An ID, also as #66, "
        "finds that user. Whoever finds a duplicate also finds the user who was kept.",
    )
    is_active: bool | None = None
    limit: Limit = 50
    cursor: CursorIn = None


def customers(request: HttpRequest) -> QuerySet[User]:
    rows = User.objects.customers()
    return rows.select_related("balance") if may(request, "billing.view_balance") else rows


def customer(request: HttpRequest, user_id: int) -> User:
    """Returns a customer. Raises UnknownUser, also for operators."""
    user = customers(request).filter(pk=user_id).first()
    if user is None:
        raise UnknownUser(user_id=user_id)
    return user


def shown(request: HttpRequest, user: User) -> dict[str, Any]:
    balance = user.balance if may(request, "billing.view_balance") else None
    return {
        "id": user.pk,
        **{name: getattr(user, name) for name in PLAIN_FIELDS},
        "is_active": user.is_active,
        "duplicate_of": user.duplicate_of_id,
        "forgotten_at": user.forgotten_at and representations.moment(user.forgotten_at),
        "created_at": representations.moment(user.created_at),
        "balance": balance
        and {
            "real": representations.amount(balance.real),
            "bonus": representations.amount(balance.bonus),
            "number": balance.last_number,
        },
    }


@router.get(
    "/users",
    auth=RequiresPermission("users.view_user"),
    response={200: UserPage, 503: ProblemOut},
    summary="List users, newest first",
)
def list_users(request: HttpRequest, filters: Query[UserFilters]) -> dict[str, Any]:
    rows = customers(request)
    if filters.is_active is not None:
        rows = rows.filter(is_active=filters.is_active)
    if filters.cursor is not None:
        [last] = cursors.from_text("users", filters.cursor, 1)
        rows = rows.filter(pk__lt=last)
    # A search for rare words reads all users.
    with reports.time_limit(SEARCH_SECONDS) if filters.search else nullcontext():
        rows = search(rows, filters.search)
        found = list(rows.order_by("-pk")[: filters.limit + 1])
    page = found[: filters.limit]
    has_more = len(found) > filters.limit
    return {
        "users": [shown(request, user) for user in page],
        "next_cursor": cursors.to_text("users", page[-1].pk) if has_more else None,
    }


@router.post(
    "/users",
    auth=RequiresPermission("users.add_user", writes=True),
    response={201: UserOut, 409: ProblemOut},
    summary="Create a user",
    description="The user gets the bonus and the plan of the defaults for new users.",
)
def create_user(request: HttpRequest, new: UserIn, response: HttpResponse) -> Status[Any]:
    user = User(**new.model_dump(exclude_unset=True))
    with _problems_told():
        operations.customers.create(
            user, day=utc_today(), actor=actor(request), channel=Channel.API
        )
    response["Location"] = reverse("api-v1:read_user", args=[user.pk])
    return Status(201, _tagged(request, response, customer(request, user.pk)))


@router.get(
    "/users/{int:user_id}",
    auth=RequiresPermission("users.view_user", tagged=True),
    response={200: UserOut, 404: ProblemOut},
    summary="Read a user",
)
def read_user(request: HttpRequest, user_id: PathId, response: HttpResponse) -> dict[str, Any]:
    return _tagged(request, response, customer(request, user_id))


@router.patch(
    "/users/{int:user_id}",
    auth=RequiresPermission("users.change_user", writes=True, tagged=True),
    response={200: UserOut, 404: ProblemOut, 409: ProblemOut},
    summary="Update, activate or deactivate a user",
    description="Fields that are left out stay unchanged.",
)
def update_user(
    request: HttpRequest, user_id: PathId, changes: UserFields, response: HttpResponse
) -> dict[str, Any]:
    def check(user: User) -> None:
        etags.check(request, _tag(shown(request, user)))

    given = changes.model_dump(exclude_unset=True)
    with _problems_told():
        operations.customers.edit(
            user_id,
            lambda user: given,
            if_unchanged=check,
            day=utc_today(),
            actor=actor(request),
            channel=Channel.API,
        )
    return _tagged(request, response, customer(request, user_id))


@router.post(
    "/users/{int:user_id}/merge",
    auth=RequiresPermission("users.merge_user", writes=True, lasts=True),
    response={200: MergedOut, **NOT_MERGED},
    summary="Mark a user as a duplicate",
    description="Moves both balances, each gift with its expiry, and the subscriptions to the user "
    "who is kept, and deactivates the duplicate, for good: all of it, or nothing.",
)
def merge_user(
    request: HttpRequest, user_id: PathId, merge: MergeIn, response: HttpResponse
) -> dict[str, Any]:
    return _merged(request, user_id, merge, dry_run=False)


@router.post(
    "/users/{int:user_id}/merge/preview",
    auth=RequiresPermission("users.merge_user"),
    response={200: MergePreviewOut, **NOT_MERGED},
    summary="Preview a merge",
    description="Returns what the merge would come to now and does nothing. It is refused exactly "
    "when the merge would be.",
)
def preview_merge(request: HttpRequest, user_id: PathId, merge: MergeIn) -> dict[str, Any]:
    return _merged(request, user_id, merge, dry_run=True)


def _merged(request: HttpRequest, user_id: int, merge: MergeIn, *, dry_run: bool) -> dict[str, Any]:
    merged = operations.duplicates.merge(
        user_id,
        **merge.model_dump(),
        day=utc_today(),
        actor=actor(request),
        channel=Channel.API,
        dry_run=dry_run,
    )
    users = []
    for user in (merged.user, merged.kept):
        after = merged.after[user.pk]
        # The row in the database is as before after a dry run.
        user.balance.real, user.balance.bonus = after.real, after.bonus
        user.balance.last_number = after.number
        users.append(shown(request, user))
    return {
        "duplicate": users[0],
        "user": users[1],
        "transactions": [representations.transaction(row) for row in merged.posted],
    }


@router.post(
    "/users/{int:user_id}/forget",
    auth=RequiresPermission("users.forget_user", writes=True, lasts=True),
    response={200: ForgottenOut, 404: ProblemOut, 409: ProblemOut},
    summary="Forget a user",
    description="Erases the personal data of a deactivated user without money and subscriptions, "
    "and of the user's duplicates, for good. The transactions stay as they are.",
)
def forget_user(request: HttpRequest, user_id: PathId, response: HttpResponse) -> dict[str, Any]:
    done = operations.forgetting.forget(user_id, actor=actor(request), channel=Channel.API)
    return {
        "user": shown(request, done.user),
        "duplicates": [shown(request, each) for each in done.duplicates],
    }


def _tagged(request: HttpRequest, response: HttpResponse, user: User) -> dict[str, Any]:
    answer = shown(request, user)
    etags.show(request, response, _tag(answer))
    return answer


def _tag(answer: dict[str, Any]) -> str:
    return etags.tag_of(answer | {"balance": None}, besides=answer["balance"])


@contextmanager
def _problems_told() -> Iterator[None]:
    """Turns a ValidationError into a problem that lists each invalid field."""
    try:
        yield
    except ValidationError as problem:
        errors = [
            {"field": field, "reason": " ".join(reasons)}
            for field, reasons in problem.message_dict.items()
        ]
        raise Problem("invalid_request", reasons=errors[0]["reason"], errors=errors) from None
