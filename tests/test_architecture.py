"""Checks which modules may import which, and which may write money.

The message of a failure says what to call instead.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
APPLICATIONS = ("config", "users", "billing")

# From top to bottom. A module may import from lower layers and from its own package. Packages of
# one layer do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("config",),
    ("billing.admin", "billing.api", "billing.management", "billing.tasks"),
    ("billing.templatetags",),
    ("billing.operations",),
    ("billing.files", "billing.heartbeat", "billing.imports", "billing.webhooks"),
    ("billing.reports", "billing.thresholds"),
    ("billing.events", "billing.plans"),
    (
        "billing.answers",
        "billing.authority",
        "billing.ledger",
        "billing.representations",
    ),
    ("billing.models",),
    ("billing.counters",),
    (
        "billing.errors",
        "billing.expiry",
        "billing.plans.pricing",
        "billing.plans.schedule",
        "billing.typed",
    ),
    ("billing.descriptions", "billing.money", "billing.sql"),
    ("billing.currencies",),
    ("users",),
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
# Django needs these under these names. They import no application code.
WITHOUT_LAYER = ("billing.migrations", "billing.apps")


def modules(*packages: str) -> Iterator[tuple[str, Path]]:
    """Yields each module's dotted name and file."""
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def layer_of(module: str) -> str | None:
    """Returns the layer that a module belongs to; None for modules of other projects."""
    fitting = [layer for layer in LEVELS if module == layer or module.startswith(f"{layer}.")]
    return max(fitting, key=len, default=None)


def imports(path: Path, module: str) -> Iterator[tuple[int, str]]:
    """Yields line and dotted name of each import of a module, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".") if path.stem == "__init__" else module.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, *filter(None, [node.module])])
            # `from billing import ledger` imports a module, `from billing.money import ZERO` a
            # name inside one.
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if layer_of(whole) != layer_of(base) else base


def wrong_imports(module: str, path: Path) -> Iterator[str]:
    own = layer_of(module)
    for line, imported in imports(path, module):
        other = layer_of(imported)
        if other is None or own is None or other == own or LEVELS[other] > LEVELS[own]:
            continue
        where = "a sibling" if LEVELS[other] == LEVELS[own] else "a layer above"
        allowed = ", ".join(name for names in LAYERS[LEVELS[own] + 1 :] for name in names)
        yield (
            f"{path.relative_to(ROOT)}:{line}: {own} imports {imported}, {where}. Imports point "
            f"down only; {own} may import: {allowed or 'nothing of this project'}."
        )


def test_imports_point_down_only() -> None:
    wrong = [
        sentence
        for module, path in modules(*APPLICATIONS)
        for sentence in wrong_imports(module, path)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_module_has_its_layer() -> None:
    homeless = [
        str(path.relative_to(ROOT))
        for module, path in modules(*APPLICATIONS)
        if layer_of(module) is None and module != "billing" and not module.startswith(WITHOUT_LAYER)
    ]
    assert not homeless, f"Add these to LAYERS in tests/test_architecture.py: {homeless}"


@pytest.mark.parametrize(
    ("module", "source", "line"),
    [
        ("users.models", "from billing import ledger", 1),
        ("users.models", "import billing.models", 1),
        ("users.admin.people", "def f():\n    from billing.models import Balance", 2),
        ("billing.money", "from billing.errors import BillingError", 1),
        ("billing.models.balances", "from billing.ledger import Entry", 1),
        ("billing.models.balances", "from .. import ledger", 1),
        ("billing.models.balances", "from ..ledger import Entry", 1),
        ("billing.reports", "from billing import webhooks", 1),
        ("billing.admin.users", "from billing.management.commands import seed_demo", 1),
        ("billing.ledger", "from config import settings", 1),
        ("billing.ledger", "from billing.models import Balance\nimport billing.admin.pages", 2),
    ],
)
def test_an_import_upwards_or_sideways_is_seen(
    module: str, source: str, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = ROOT / Path(*module.split(".")).with_suffix(".py")
    monkeypatch.setattr(Path, "read_text", lambda self: source)
    [sentence] = wrong_imports(module, path)
    assert f"{path.name}:{line}: " in sentence
    assert "Imports point down only" in sentence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("billing.ledger", "from billing.models import Balance\nfrom billing.money import ZERO"),
        ("billing.models.balances", "from billing.models.transactions import label_of"),
        ("billing.admin.users", "from billing import ledger\nfrom users.models import User"),
        ("billing.admin.users", "from django.contrib import admin\nimport json"),
    ],
)
def test_an_import_downwards_is_fine(
    module: str, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: source)
    assert list(wrong_imports(module, ROOT / "some.py")) == []


# --- Writes of money ----------------------------------------------------------------------------

MAY_WRITE_MONEY = ("billing.ledger", "billing.migrations")
CALL_INSTEAD = (
    "Only billing/ledger/ writes balances and transactions. Call ledger.change_balance, "
    "give_bonus, reverse or, with entries of any kind, post and post_batch."
)
MODELS = {"Balance", "Transaction"}
WAYS_TO_THEM = {"balance", "transactions"}  # attributes of a user
WRITES = {
    *("save", "create", "acreate", "update", "aupdate", "delete", "adelete", "asave"),
    *("bulk_create", "abulk_create", "bulk_update", "abulk_update", "_raw_delete"),
    *("get_or_create", "aget_or_create", "update_or_create", "aupdate_or_create"),
    "select_for_update",
}
WRITING_SQL = re.compile(
    r"\b(INSERT\s+INTO|UPDATE|DELETE\s+FROM|MERGE\s+INTO|TRUNCATE(\s+TABLE)?|COPY)\s+"
    r"(ONLY\s+)?(\w+\.)?\"?billing_(balance|transaction)\b(?!\s+TO\b)|\bbilling_(post|hold)\s*\(",
    re.IGNORECASE,
)


def names_in(node: ast.expr) -> set[str]:
    """Returns all names in an expression: user, transactions and filter in
    `user.transactions.filter(…)`.
    """
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)
    }


def writes_of_money(path: Path) -> Iterator[int]:
    """Yields lines that write balances or transactions, through a model or with SQL."""
    tree = ast.parse(path.read_text())
    of_money = MODELS | WAYS_TO_THEM | set(variables_of_money(tree))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in WRITES and names_in(node.func.value) & of_money:
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            # Balance(…): an unsaved object is made only to be saved.
            if node.func.id in MODELS:
                yield node.lineno
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documentation
            and WRITING_SQL.search(node.value)
        ):
            yield node.lineno


def variables_of_money(tree: ast.AST) -> Iterator[str]:
    """Yields the names of variables that hold rows or queries of the two models."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if names_in(node.value) & MODELS:
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.For) and names_in(node.iter) & MODELS:
            yield from (n.id for n in ast.walk(node.target) if isinstance(n, ast.Name))
        elif isinstance(node, ast.arg) and node.annotation and names_in(node.annotation) & MODELS:
            yield node.arg


def test_only_the_ledger_writes_money() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {CALL_INSTEAD}"
        for module, path in modules(*APPLICATIONS)
        if not module.startswith(MAY_WRITE_MONEY)
        for line in writes_of_money(path)
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "Balance.objects.filter(pk=1).update(real=5)",
        "Balance.objects.select_for_update().get(pk=1)",
        "Transaction.objects.create(amount=5)",
        "Transaction(amount=5).save()",
        "models.Transaction.objects.bulk_create([])",
        "user.transactions.all().delete()",
        "user.balance.save()",
        "row = Balance.objects.get(pk=1)\nrow.real += 5\nrow.save()",
        "def f(t: Transaction):\n    t.save(update_fields=['amount'])",
        "for t in Transaction.objects.all():\n    t.delete()",
        "cursor.execute('UPDATE billing_balance SET real = 5')",
        "cursor.execute('insert into public.billing_transaction values (1)')",
        "cursor.execute(f'DELETE FROM billing_transaction WHERE id = {5}')",
        "cursor.copy('COPY billing_transaction FROM STDIN')",
        "cursor.execute('SELECT billing_post(%s, %s, %s)')",
        "cursor.execute('SELECT * FROM billing_hold(%s)')",
    ],
)
def test_a_write_of_money_is_seen(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: source)
    assert list(writes_of_money(ROOT / "some.py"))


@pytest.mark.parametrize(
    "source",
    [
        "Balance.objects.get(pk=1)",
        "Transaction.objects.filter(user=1).aggregate(Sum('amount'))",
        "user.save()",
        "Reason.objects.create(template='Refill')",
        "ledger.change_balance(user, amount=5)",
        "cursor.execute('SELECT * FROM billing_transaction')",
        "cursor.copy('COPY billing_transaction TO STDOUT')",
        '"""Speaks of UPDATE billing_balance only."""',
    ],
)
def test_reading_money_is_fine(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: source)
    assert list(writes_of_money(ROOT / "some.py")) == []


# --- Channels call operations -------------------------------------------------------------------

CHANNELS = ("billing.admin", "billing.api", "billing.management.commands", "billing.tasks")
# Maps code that a channel must not contain (a pattern) to the call that it should make instead.
NOT_A_CHANNELS_BUSINESS = {
    r"\bLogEntry\b": "Django's log is not used: operations record events.",
    r"\bevents\.record(_all)?\(|\bbilling_note_events\(": "Operations record what they do.",
    r"\block_balances\(|\bbilling_hold\(": "Operations lock balances.",
    r"get_object_or_404\(\s*User\b|User\.objects\.\w+\([^)]*(?<!_)is_staff=False": (
        "Call operations.customers.find_customer; for a list, User.objects.customers()."
    ),
    r"\bledger\.(change_balance|reverse|give_bonus|post\w*)\(": "Call billing.operations.money.",
    r"\bservices\.charge_service\(": "Call operations.money.charge_service.",
    r"\bsubscriptions\.(start|change_plan|cancel|welcome|record_active_day)\(": (
        "Call operations.subscriptions."
    ),
    r"\bthresholds\.(set_default|set_own|unset_own)\(": "Call operations.thresholds.",
    r"\bauthority\.(issue_key|revoke_key)\(": "Call operations.keys.",
}


def deeds_of_a_channel(source: str) -> Iterator[str]:
    """Yields the lines that do the work of an operation, each with the call to make instead."""
    for pattern, instead in NOT_A_CHANNELS_BUSINESS.items():
        for found in re.finditer(pattern, source):
            if source[: found.start()].endswith("operations."):
                continue
            yield f"{source.count(chr(10), 0, found.start()) + 1}: {instead}"


def test_channels_ask_operations() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{deed}"
        for module, path in modules("billing")
        if module.startswith(CHANNELS)
        for deed in deeds_of_a_channel(path.read_text())
    ]
    assert not wrong, "\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "from django.contrib.admin.models import LogEntry",
        "ledger.lock_balances([user.pk])",
        "events.record(Subject.USER, 5, 'added')",
        "get_object_or_404(User, pk=5, is_staff=False)",
        "User.objects.filter(pk=5, is_staff=False).first()",
        "ledger.change_balance(user, amount=5)",
        "subscriptions.start(user, plan)",
        "thresholds.set_own(5, 10)",
        "authority.issue_key(name='x')",
    ],
)
def test_a_channel_that_does_things_itself_is_seen(source: str) -> None:
    assert [*deeds_of_a_channel(source)]


@pytest.mark.parametrize(
    "source",
    [
        "operations.subscriptions.start(5, 7)",
        "operations.thresholds.set_own(5, 10)",
        "operations.customers.find_customer(5)",
        "ledger.balance(5)",
        "rows.filter(user__is_staff=False)",
        "events.sentence(event)",
    ],
)
def test_a_channel_that_asks_is_fine(source: str) -> None:
    assert not [*deeds_of_a_channel(source)]
