"""The search finds users in all spellings: in the panel's lists, over REST and the Panel API."""

import sys
import unicodedata
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from django.core.cache import cache
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from hypothesis import given
from hypothesis import strategies as st

from billing.models import Reason
from tests.api.panel.client import Program as PanelProgram
from tests.api.rest.programs import program_of_administrator
from tests.factories import (
    AdministratorFactory,
    PlanFactory,
    ServiceFactory,
    UserFactory,
    subscribed,
)
from tests.operators import client_of
from users import search
from users.models import User

pytestmark = pytest.mark.django_db

# Fields of a user → queries that have to find the user.
EXAMPLES: list[tuple[dict[str, str], list[str]]] = [
    (
        {"phone": "+91 20 5555 5185"},
        [
            *("+912055555185", "912055555185", "+91 20 5555 5185", "5555 5185", "20-5555-5185"),
            *("020 5555 5185", "00912055555185", "+91 (0)20 5555 5185"),
        ],
    ),
    ({"phone": "020 5555 5185"}, ["+912055555185", "0091 20 5555 5185", "+91 (0)20 5555 5185"]),
    ({"phone": "+91 (0)20 5555 5185"}, ["+912055555185", "020 5555 5185", "0091 20 55555185"]),
    ({"phone": "8 (916) 123-45-67"}, ["+7 916 123-45-67", "007 9161234567"]),
    ({"phone": "06 1 234 5678"}, ["+36 1 234 5678"]),
    (
        {"phone": "+1 (555) 010-9999"},
        [
            "15550109999",
            "5550109999",
            "555-010-9999",
            "+1 (555) 010-9999",
            "(555) 010 9999",
            "555.010.9999",
            "010-99",
            "Zoe 555 010 9999",
        ],
    ),
    ({"phone": "15550109999"}, ["+1 (555) 010-9999", "555-010-9999", "001 555 010 9999"]),
    ({"phone": "(555) 010-9999"}, ["+1 555 010 9999"]),
    ({"first_name": "Hélène"}, ["Hélène", "He\u0301le\u0300ne", "helene", "HELENE"]),
    ({"first_name": "He\u0301le\u0300ne"}, ["Hélène", "He\u0301le\u0300ne", "helene"]),
    ({"last_name": "O’Hara"}, ["O'Hara", "O’Hara", "ohara", "O‘HARA", "OʼHara", "O´Hara"]),
    ({"last_name": "O'Hara"}, ["O’Hara", "ohara"]),
    ({"last_name": "Łukasiewicz"}, ["lukasiewicz", "ŁUKASIEWICZ", "łukasiewicz"]),
    (
        {"first_name": "Vikram", "last_name": "Desai"},
        ["Desai, Vikram", "desai,vikram", "Vikram Desai", "vik des"],
    ),
    ({"last_name": "Ёлкин"}, ["елкин", "ЁЛКИН", "ёлкин", "Елкин"]),
    ({"last_name": "Çağlayan-Işık"}, ["caglayan isik", "ÇAĞLAYAN–IŞIK", "caglayan-isik"]),
    ({"last_name": "Søren Þór Æbelø"}, ["soren thor aebelo", "SØREN"]),
    ({"last_name": "Straße"}, ["strasse", "STRASSE", "STRAẞE"]),
    ({"last_name": "Παπαδόπουλος"}, ["παπαδοπουλοσ", "ΠΑΠΑΔΟΠΟΥΛΟΣ"]),
    ({"legal_name": "ООО «Ромашка»"}, ['ООО "Ромашка"', "ромашка"]),
    ({"legal_name": "Smith & Jones, Inc."}, ["smith & jones inc", "Jones, Smith"]),
    ({"tin": "DE 123 456 789"}, ["DE123456789", "de 123 456", "123456789"]),
    ({"tin": "GB-100%_7"}, ["gb-100%_7", "100%", "gb100"]),
    ({"okpo_code": "00123456"}, ["00123456", "00123"]),
    ({"email": "zoe@bücher.example"}, ["zoe@xn--bcher-kva.example", "bucher", "zoe@bücher"]),
    ({"email": "zoe@xn--bcher-kva.example"}, ["zoe@bücher.example", "bücher", "ZOE@XN--BCHER"]),
    ({"email": "zoe.b-c+tag@some.example"}, ["zoe.b-c+tag@some.example", "b-c+tag", "TAG@SOME"]),
    ({"city": "Łódź", "street_address": "ul. Piotrkowska 7"}, ["lodz piotrkowska", "łódź"]),
]


def in_the_panel(text: str) -> list[int]:
    page = client_of(AdministratorFactory()).get(f"/admin/users/user/?q={quote(text)}")
    assert page.status_code == 200
    return [user.pk for user in page.context["cl"].result_list]


def over_rest(text: str) -> list[int]:
    answer = program_of_administrator().get(f"/users?search={quote(text)}")
    return [user["id"] for user in answer.json()["users"]]


def over_the_panel_api(text: str) -> list[int]:
    program = PanelProgram(AdministratorFactory())
    return [user["id"] for user in program("user/list", filter=text)["list"]]


every_door = pytest.mark.parametrize("door", [in_the_panel, over_rest, over_the_panel_api])
Door = Callable[[str], list[int]]


def zoe(**written: str) -> User:
    UserFactory(email="somebody@else.example", phone="+49 30 1234567", last_name="Else")
    usual = {"email": "z@zoo.example", "first_name": "Zoe", "last_name": "Z"}
    return UserFactory(**usual | written)


@every_door
@pytest.mark.parametrize(("written", "typed"), EXAMPLES, ids=[str(each) for each, _ in EXAMPLES])
def test_what_is_typed_finds_what_was_written(
    door: Door, written: dict[str, str], typed: list[str]
) -> None:
    user = zoe(**written)
    assert {each: door(each) for each in typed} == {each: [user.pk] for each in typed}


@every_door
def test_a_number_after_a_hash_finds_the_user_with_that_id(door: Door) -> None:
    user = zoe()
    User.objects.filter(pk=user.pk).update(phone="")
    assert user.pk in door(f"#{user.pk}")
    assert door(f"#{user.pk} zoe") == [user.pk]
    assert door(f"#{user.pk + 1}") == []


@every_door
@pytest.mark.parametrize("typed", ["'", "—", "nobody zoe", "%", "_", "5550109998", "zoeelse"])
def test_what_is_nowhere_is_not_found(door: Door, typed: str) -> None:
    zoe(phone="+1 (555) 010-9999")
    assert door(typed) == []


@every_door
def test_the_digits_that_are_told_find_their_user(door: Door) -> None:
    user = zoe(phone="+91 (20) 5555-5185")
    program = PanelProgram(AdministratorFactory())
    shown = program("user/read", user_id=user.pk)["value"]["phone"]
    assert shown == "912055555185"
    assert door(shown) == [user.pk]


@pytest.mark.parametrize(
    "write",
    [
        lambda user: User.objects.filter(pk=user.pk).update(last_name="Łukasiewicz"),
        lambda user: User.objects.bulk_update([user], ["last_name"]),
        lambda user: user.save(update_fields=["last_name"]),
        lambda user: connection.cursor().execute(
            "UPDATE users_user SET last_name = 'Łukasiewicz' WHERE id = %s", [user.pk]
        ),
    ],
)
def test_whoever_writes_is_found_at_once(write: Any) -> None:
    user = zoe()
    user.last_name = "Łukasiewicz"
    write(user)
    assert over_rest("lukasiewicz") == [user.pk]
    assert over_rest("Łukasiewicz") == [user.pk]


def test_the_subscriptions_of_all_users_are_found_by_their_users_and_devices() -> None:
    subscription = subscribed(
        zoe(last_name="Łukasiewicz", phone="+1 (555) 010-9999"), PlanFactory(), device="Van-7"
    )
    subscribed(UserFactory(), PlanFactory(), device="8617")
    panel = client_of(AdministratorFactory())
    for typed in ("lukasiewicz", "van-7", "Lukasiewicz, Van-7", "5550109999", "555 010 9999",
                  "z@zoo.example", f"#{subscription.user_id} van"):  # fmt: skip
        page = panel.get(f"/admin/billing/subscription/?q={quote(typed)}")
        assert [row.subscription for row in page.context["rows"]] == [subscription], typed
    page = panel.get("/admin/billing/subscription/?q=lukasiewicz+8617")
    assert page.context["rows"] == []


def test_operators_are_found_the_same_way() -> None:
    operator = AdministratorFactory(first_name="Hélène", phone="+1 (555) 010-9999")
    for typed in ("helene", "5550109999", f"#{operator.pk}"):
        page = client_of(AdministratorFactory()).get(f"/admin/users/operator/?q={quote(typed)}")
        assert [each.pk for each in page.context["cl"].result_list] == [operator.pk]


# --- The fold -----------------------------------------------------------------------------------


def folded(*texts: str) -> list[str]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT users_fold(each) FROM unnest(%s::text[]) WITH ORDINALITY AS t (each, n) "
            "ORDER BY n",
            [list(texts)],
        )
        return [row[0] for row in cursor.fetchall()]


def test_both_cases_of_every_letter_are_the_same() -> None:
    letters = [
        letter
        for letter in map(chr, range(0x80, sys.maxunicode + 1))
        if unicodedata.category(letter) in ("Lu", "Lt") and len(letter.lower()) == 1
    ]
    assert len(letters) > 1_500
    upper, lower = folded(*letters), folded(*(letter.lower() for letter in letters))
    assert [pair for pair in zip(letters, upper, lower, strict=True) if pair[1] != pair[2]] == []


@given(st.text().map(lambda text: text.replace("\0", "").encode("utf-8", "ignore").decode()))
def test_a_text_is_folded_the_same_however_its_letters_are_put_together(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    first, *others = folded(text, *forms)
    assert others == [first, first]
    assert folded(first) == [first]
    assert first == " ".join(first.split(" ")).strip(" ")


@given(st.text("aB éЁ'’-1()ł,\u0301ß", max_size=20), st.integers(0, 20), st.integers(0, 20))
def test_any_part_of_what_was_written_is_found(text: str, first: int, last: int) -> None:
    part = unicodedata.normalize("NFC", text)[first:last]
    with transaction.atomic():
        [user] = User.objects.bulk_create([User(email="part@example.org", last_name=text)])
        is_found = search.search(User.objects.filter(pk=user.pk), part).exists()
        says_something = any(each.folded for each in search.query_words(part)) or not part.strip()
        transaction.set_rollback(True)
    assert is_found == says_something


# --- Duplicates ---------------------------------------------------------------------------------


@every_door
@pytest.mark.parametrize(
    "typed", ["old@twin.example", "Byron", "030 5555 1234", "byron strelsau", "#{id}", "{id}"]
)
def test_whoever_finds_a_duplicate_finds_the_user_who_is_kept(door: Door, typed: str) -> None:
    kept = zoe(email="new@kept.example", last_name="Kept")
    duplicate = UserFactory(
        email="old@twin.example", last_name="Byron", phone="+49 30 55551234", city="Strelsau"
    )
    assert kept.pk not in door(typed.format(id=duplicate.pk))
    User.objects.filter(pk=duplicate.pk).update(is_active=False, duplicate_of=kept)
    assert {kept.pk, duplicate.pk} <= set(door(typed.format(id=duplicate.pk)))
    assert door("new@kept.example") == [kept.pk]


# --- The index ----------------------------------------------------------------------------------


def test_the_index_is_asked_for_a_words_rarest_parts() -> None:
    common = dict.fromkeys(["exa", "xam", "amp", "mpl", "ple"], 0.9)
    cache.set(search.INDEX, common | {"zoe": 0.01})
    try:
        with CaptureQueriesContext(connection) as queries:
            assert not list(search.search(User.objects.all(), "example"))
            assert not list(search.search(User.objects.all(), "zoe.example"))
    finally:
        cache.delete(search.INDEX)
    # Before each, the duplicates are asked for.
    duplicates = '"duplicate_of_id" IS NOT NULL'
    asked = [
        each["sql"] for each in queries if "LIKE" in each["sql"] and duplicates not in each["sql"]
    ]
    assert "users_trigrams" not in asked[0]
    assert "users_trigrams" in asked[1]
    assert "zoe" in asked[1].split("::text[]")[0]


def test_a_rare_word_is_found_by_the_index() -> None:
    UserFactory.create_batch(200)
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL enable_seqscan = off")
        plan = search.search(User.objects.all(), "lukasiewicz").explain()
    assert search.INDEX in plan


# --- Small tables -------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["lodz", "ŁÓDŹ", "ohara's", "basic  lodz"])
def test_plans_services_and_descriptions_are_found_by_the_same_fold(db: None, typed: str) -> None:
    plan = PlanFactory(name="Basic Łódź O’Hara’s")
    PlanFactory(name="Other")
    service = ServiceFactory(code="lodz", name="Basic Łódź O’Hara’s")
    ServiceFactory(code="other", name="Other")
    standard = Reason.objects.create(
        code="lodz", label="Basic Łódź O’Hara’s", template="Basic Łódź O’Hara’s"
    )
    Reason.objects.create(code="else", label="Something else", template="Something else")
    administrator = AdministratorFactory()
    client = client_of(administrator)
    for name, row in (("plan", plan), ("service", service), ("reason", standard)):
        answer = client.get(f"/admin/billing/{name}/", {"q": typed})
        assert list(answer.context["cl"].result_list) == [row], name
    shown = PanelProgram(administrator)("tariff/list", filter=typed)
    assert [each["id"] for each in shown["list"]] == [plan.pk]
