"""What the group of administrators may do with API keys and webhooks."""

from django.db import migrations

ADMINISTRATOR = [
    ("apikey", "view"),
    ("apikey", "add"),
    ("apikey", "change"),
    ("webhookendpoint", "view"),
    ("webhookendpoint", "add"),
    ("webhookendpoint", "change"),
    ("webhookendpoint", "delete"),
    ("webhookdelivery", "view"),
    ("webhookdelivery", "change"),
    ("lowbalancethreshold", "view"),
    ("lowbalancethreshold", "change"),
]
BILLING_OPERATOR = [("lowbalancethreshold", "view"), ("lowbalancethreshold", "change")]
GROUPS = {"Billing operator": BILLING_OPERATOR, "Administrator": ADMINISTRATOR}
NAMES_OF_MODELS = {
    "apikey": "API key",
    "webhookendpoint": "webhook endpoint",
    "webhookdelivery": "webhook delivery",
    "lowbalancethreshold": "low balance threshold",
}


def permit(apps, schema_editor):
    """A group that was renamed or removed since stays as it is."""
    Group = apps.get_model("auth", "Group")
    for name, permissions in GROUPS.items():
        for group in Group.objects.filter(name=name):
            group.permissions.add(*[_permission(apps, *each) for each in permissions])


def _permission(apps, model, action):
    """Django itself adds permissions only after all migrations; this is the very same row."""
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    content_type, _ = ContentType.objects.get_or_create(app_label="billing", model=model)
    permission, _ = Permission.objects.get_or_create(
        content_type=content_type,
        codename=f"{action}_{model}",
        defaults={"name": f"Can {action} {NAMES_OF_MODELS.get(model, model)}"},
    )
    return permission


def forbid(apps, schema_editor):
    Group = apps.get_model("auth", "Group")
    for name, permissions in GROUPS.items():
        for group in Group.objects.filter(name=name):
            group.permissions.remove(*[_permission(apps, *each) for each in permissions])


class Migration(migrations.Migration):
    dependencies = [("billing", "0011_webhooks_and_request_ids")]

    operations = [migrations.RunPython(permit, forbid)]
