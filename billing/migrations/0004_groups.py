"""Three groups to begin with. An installation may change them, and make its own."""

from django.db import migrations

VIEWER = [
    ("users", "user", "view"),
    ("billing", "transaction", "view"),
    ("billing", "balance", "view"),
    ("billing", "standarddescription", "view"),
]
BILLING_OPERATOR = [
    *VIEWER,
    ("billing", "balance", "change"),
    ("users", "user", "add"),
    ("users", "user", "change"),
]
ADMINISTRATOR = [
    *BILLING_OPERATOR,
    ("billing", "standarddescription", "add"),
    ("billing", "standarddescription", "change"),
    ("billing", "standarddescription", "delete"),
    ("users", "operator", "view"),
    ("users", "operator", "add"),
    ("users", "operator", "change"),
    ("auth", "group", "view"),
    ("auth", "group", "add"),
    ("auth", "group", "change"),
    ("auth", "group", "delete"),
]
GROUPS = {
    "Viewer": VIEWER,
    "Billing operator": BILLING_OPERATOR,
    "Administrator": ADMINISTRATOR,
}
NAMES_OF_MODELS = {"standarddescription": "standard description"}


def make_groups(apps, schema_editor):
    Group = apps.get_model("auth", "Group")
    for name, permissions in GROUPS.items():
        group, is_new = Group.objects.get_or_create(name=name)
        if is_new:  # one that was there already stays as it is
            group.permissions.set([_permission(apps, *each) for each in permissions])


def _permission(apps, app_label, model, action):
    """Django itself adds permissions only after all migrations; this is the very same row."""
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    content_type, _ = ContentType.objects.get_or_create(app_label=app_label, model=model)
    permission, _ = Permission.objects.get_or_create(
        content_type=content_type,
        codename=f"{action}_{model}",
        defaults={"name": f"Can {action} {NAMES_OF_MODELS.get(model, model)}"},
    )
    return permission


def remove_groups(apps, schema_editor):
    """Takes away the groups that are as they were made and that nobody is in."""
    Group = apps.get_model("auth", "Group")
    User = apps.get_model("users", "User")
    for name, permissions in GROUPS.items():
        made = {f"{action}_{model}" for _, model, action in permissions}
        for group in Group.objects.filter(name=name):
            has = set(group.permissions.values_list("codename", flat=True))
            if has == made and not User.objects.filter(groups=group).exists():
                group.delete()


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("billing", "0003_guards"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("users", "0001_initial"),
    ]

    operations = [migrations.RunPython(make_groups, remove_groups)]
