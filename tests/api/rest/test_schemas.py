"""The fields of a user in the API are the columns of the table, with the same lengths."""

from django.db.models import CharField

from billing.api.rest import api
from billing.api.schemas import UserFields, UserOut
from users.models import User

NOT_SAID = {
    *("id", "password", "last_login", "is_staff", "is_superuser", "created_at"),
    *("email_identity", "email_twin", "search_text"),  # computed by the database
}
READ_ONLY = {"duplicate_of", "forgotten_at"}


def test_a_program_reads_and_writes_every_field_of_a_user() -> None:
    fields = {field.name for field in User._meta.concrete_fields} - NOT_SAID
    assert set(UserFields.model_fields) == fields - READ_ONLY
    assert set(UserOut.model_fields) == fields | {"id", "created_at", "balance"}


def test_a_text_is_as_long_as_its_column() -> None:
    components = api.get_openapi_schema()["components"]["schemas"]
    for name, said in components["UserFields"]["properties"].items():
        column = User._meta.get_field(name)
        if isinstance(column, CharField) and column.choices is None:
            assert said["maxLength"] == column.max_length, name
            assert "default" not in said
