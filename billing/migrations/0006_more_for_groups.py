"""What the three ready-made groups may do with plans, subscriptions and runs."""

from django.db import migrations

VIEWER = [
    ("plan", "view"),
    ("service", "view"),
    ("subscription", "view"),
    ("chargingrun", "view"),
]
BILLING_OPERATOR = [
    *VIEWER,
    ("subscription", "add"),
    ("subscription", "change"),
]
ADMINISTRATOR = [
    *BILLING_OPERATOR,
    ("plan", "add"),
    ("plan", "change"),
    ("plan", "delete"),
    ("service", "add"),
    ("service", "change"),
    ("service", "delete"),
    ("userdefaults", "view"),
    ("userdefaults", "change"),
]
GROUPS = {
    "Viewer": VIEWER,
    "Billing operator": BILLING_OPERATOR,
    "Administrator": ADMINISTRATOR,
}
NAMES_OF_MODELS = {"chargingrun": "charging run", "userdefaults": "defaults for new users"}


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
    dependencies = [("billing", "0005_plans_and_subscriptions")]

    operations = [migrations.RunPython(permit, forbid)]
