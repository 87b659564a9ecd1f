"""How customers are found by words: in the panel and by programs."""

from collections.abc import Sequence
from typing import Final

from django.db.models import Q, QuerySet

from users.ids import id_in
from users.models import User

SEARCHED: Final = (
    "email",
    "first_name",
    "middle_name",
    "last_name",
    "legal_name",
    "phone",
    "tin",
    "city",
)
LONGEST_SEARCH: Final = 200


def search(users: QuerySet[User], text: str, fields: Sequence[str] = SEARCHED) -> QuerySet[User]:
    """Every word has to be found in some field; a number also finds the user with that ID."""
    for word in text[:LONGEST_SEARCH].split():
        found = Q()
        for field in fields:
            found |= Q(**{f"{field}__icontains": word})
        if (user_id := id_in(word)) is not None:
            found |= Q(pk=user_id)
        users = users.filter(found)
    return users
