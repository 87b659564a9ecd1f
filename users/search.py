"""How customers are found by words: in the panel and by programs."""

from typing import Final

from django.db.models import Q, QuerySet

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
MAX_ID: Final = 2**63 - 1


def search(users: QuerySet[User], text: str, fields: tuple[str, ...] = SEARCHED) -> QuerySet[User]:
    """Every word has to be found in some field; a number also finds the user with that ID."""
    for word in text[:LONGEST_SEARCH].split():
        found = Q()
        for field in fields:
            found |= Q(**{f"{field}__icontains": word})
        if word.isascii() and word.isdigit() and int(word) <= MAX_ID:
            found |= Q(pk=int(word))
        users = users.filter(found)
    return users
