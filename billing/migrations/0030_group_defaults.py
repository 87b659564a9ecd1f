"""What the ready-made groups have been granted: so far by migrations, from now on by
`billing.authority.groups`."""

from django.db import migrations, models

VIEWER = [
    "users.view_user",
    *(
        f"billing.view_{each}"
        for each in (
            *("balance", "chargingrun", "plan", "service"),
            *("standarddescription", "subscription", "transaction"),
        )
    ),
]
BILLING_OPERATOR = [
    *VIEWER,
    "users.add_user",
    "users.change_user",
    "billing.change_balance",
    "billing.add_subscription",
    "billing.change_subscription",
    "billing.view_lowbalancethreshold",
    "billing.change_lowbalancethreshold",
]
ADMINISTRATOR = [
    *BILLING_OPERATOR,
    *(f"auth.{each}_group" for each in ("view", "add", "change", "delete")),
    *(f"users.{each}_operator" for each in ("view", "add", "change")),
    *(f"billing.{each}_apikey" for each in ("view", "add", "change")),
    *(f"billing.{each}_plan" for each in ("add", "change", "delete")),
    *(f"billing.{each}_service" for each in ("add", "change", "delete")),
    *(f"billing.{each}_standarddescription" for each in ("add", "change", "delete")),
    *(f"billing.{each}_userdefaults" for each in ("view", "change")),
    *(f"billing.{each}_webhookdelivery" for each in ("view", "change")),
    *(f"billing.{each}_webhookendpoint" for each in ("view", "add", "change", "delete")),
]
# By the migrations 0004, 0006 and 0012. What an installation has taken back since stays taken.
GRANTED = {
    "Viewer": VIEWER,
    "Billing operator": BILLING_OPERATOR,
    "Administrator": ADMINISTRATOR,
}


def note_what_was_granted(apps, schema_editor):
    GroupDefault = apps.get_model("billing", "GroupDefault")
    GroupDefault.objects.using(schema_editor.connection.alias).bulk_create(
        GroupDefault(group=group, permission=permission)
        for group, permissions in GRANTED.items()
        for permission in permissions
    )


class Migration(migrations.Migration):
    dependencies = [("billing", "0029_earlier_history")]

    operations = [
        migrations.CreateModel(
            name="GroupDefault",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("group", models.CharField(max_length=150)),
                ("permission", models.CharField(max_length=200)),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "permission"),
                        name="a_group_is_granted_a_permission_once",
                    )
                ],
            },
        ),
        migrations.RunPython(note_what_was_granted, migrations.RunPython.noop),
    ]
