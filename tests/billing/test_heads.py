"""Signed heads: what verify_ledger finds with them, and what it needs to trust a file."""

import json
import os
import re
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from django.core.management import CommandError, call_command
from django.db import connection

from billing import events, ledger
from billing.ledger import against_heads, heads, signing, verification
from billing.ledger.heads import UnusableHeads
from billing.ledger.signing import PublicKey, SigningKey, UnusableKey
from billing.models import Channel, Event, Subject, Transaction
from tests.billing.histories import (
    BY_PANEL,
    execute,
    judge,
    posted_ahead,
    tamper,
    user_with_history,
)
from tests.billing.test_verify_ledger import verify
from tests.config.processes import ROOT
from tests.conftest import Connections
from tests.factories import UserFactory, user_with
from tests.roles import as_owner
from users.models import User

NOW = datetime(2026, 11, 29, 3, 10, tzinfo=UTC)
OTHER_KEY = SigningKey("the key of another installation")


@pytest.fixture
def victim(db: None) -> User:
    """A user with a history, created between other users with and without one."""
    user_with_history()
    UserFactory()
    user = user_with_history()
    user_with_history()
    return user


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "heads"


def write_heads(file: Path, key: SigningKey | None = None) -> Path:
    with heads.drafted(file, key or signing.own_key(), made_at=NOW) as draft:
        draft.publish()
    return file


def against(file: Path, *arguments: str) -> tuple[int, str, str]:
    return verify("--heads", str(file), *arguments)


def since(file: Path, *arguments: str) -> tuple[int, str, str]:
    return verify("--since", str(file), *arguments)


def record(subject: Subject = Subject.PLAN, subject_id: int = 1) -> Event:
    return events.record(subject, subject_id, "noted", actor=None, channel=Channel.PANEL)


def go_on(user: User, amount: int = 1) -> None:
    ledger.change_balance(user, amount=amount, description="One more", **BY_PANEL)


def tamper_with_events(sql: str) -> None:
    judge()
    with as_owner():
        execute("ALTER TABLE billing_event DISABLE TRIGGER USER")
        execute(sql)
        execute("ALTER TABLE billing_event ENABLE TRIGGER USER")


# What somebody does who owns the tables and knows docs/ledger.md: everything fits again.
ADJUST = """
    DELETE FROM billing_grantuse WHERE user_id = %(user)s AND number > %(last)s;
    UPDATE billing_grant g SET uses = u.place, remaining = u.remaining FROM (
        SELECT DISTINCT ON (grant_number) * FROM billing_grantuse WHERE user_id = %(user)s
        ORDER BY grant_number, place DESC) u
    WHERE g.user_id = u.user_id AND g.number = u.grant_number;
    UPDATE billing_balance b SET real = t.new_balance, bonus = t.new_bonus,
        refilled = t.refilled, bonus_refilled = t.bonus_refilled, last_number = t.number,
        last_digest = t.digest, last_at = t.created_at FROM billing_transaction t
    WHERE b.user_id = %(user)s AND t.user_id = b.user_id AND t.number = %(last)s"""


def cut_off(user: User, last: int) -> None:
    """Removes all transactions of a user after number `last`."""
    tamper(
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number > %(last)s;" + ADJUST,
        user=user.pk,
        last=last,
    )


def rewrite(user: User, first: int, last: int) -> None:
    """Changes a transaction, and computes all digests from there to the end again."""
    again = "".join(
        "UPDATE billing_transaction t SET digest = digest_of(t) "
        f"WHERE user_id = %(user)s AND number = {number};"
        for number in range(first, last + 1)
    )
    tamper(
        "UPDATE billing_transaction SET description = 'Something else' "
        "WHERE user_id = %(user)s AND number = %(first)s;" + again + ADJUST,
        user=user.pk,
        first=first,
        last=last,
    )


# --- The format ---------------------------------------------------------------------------------


def snippet(language: str) -> str:
    """Returns the code in docs/ledger.md that checks a file without the panel."""
    page = (ROOT / "docs" / "ledger.md").read_text()
    section = page.partition("### Check a file without the panel")[2]
    return section.partition(f"```{language}\n")[2].partition("```")[0]


def test_a_file_can_be_checked_by_the_python_of_the_documentation(
    victim: User, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(Subject.PLAN, 4)
    record(Subject.PLAN, 4)
    public_key = str(signing.own_key().public)
    monkeypatch.setattr("sys.argv", ["check", str(write_heads(file)), public_key])
    names: dict[str, Any] = {}
    exec(snippet("python"), names)  # noqa: S102 - our own documentation
    assert names["heads"] == [
        *(
            ["user", user_id, number or 0, (digest or b"").hex()]
            for user_id, number, digest in execute(
                "SELECT u.id, t.number, t.digest FROM users_user u LEFT JOIN billing_transaction t "
                "ON t.user_id = u.id AND t.number = (SELECT last_number FROM billing_balance "
                "WHERE user_id = u.id) ORDER BY u.id"
            )
        ),
        ["event", "plan", 4, 2, Event.objects.get(number=2).digest.hex()],
    ]
    file.write_bytes(file.read_bytes().replace(b'"plan"', b'"plam"'))
    with pytest.raises(InvalidSignature):
        exec(snippet("python"), {})  # noqa: S102


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_file_can_be_checked_by_the_openssl_of_the_documentation(
    victim: User, file: Path
) -> None:
    variables = {"FILE": str(write_heads(file)), "KEY": str(signing.own_key().public)}

    def run() -> str:
        command = ["sh", "-c", snippet("sh")]
        return subprocess.run(
            command, env={"PATH": "/usr/bin:/bin", **variables}, cwd=file.parent,
            capture_output=True, text=True, check=False,
        ).stdout  # fmt: skip

    assert "Verified Successfully" in run()
    file.write_bytes(file.read_bytes().replace(b",7,", b",6,"))
    assert "Verified Successfully" not in run()


def test_the_command_writes_all_heads_and_says_where(victim: User, file: Path) -> None:
    record()
    said = StringIO()
    call_command("ledger_heads", str(file), stdout=said)
    users = User.objects.count()
    assert said.getvalue() == (
        f"Wrote the heads of {users} users with 21 transactions and 1 event to {file}, "
        f"signed with the key {signing.own_key().public.id}.\n"
    )
    found = list(heads.read(file, signing.own_key().public))
    assert len(found) == users + 1
    assert [head.number for head in found if head.id == victim.pk and head.subject is None] == [7]


def test_a_file_is_never_replaced(victim: User, file: Path) -> None:
    file.write_text("Something of mine")
    with pytest.raises(CommandError, match=r"already\. It was not changed\.$"):
        call_command("ledger_heads", str(file))
    assert file.read_text() == "Something of mine"
    assert [each.name for each in file.parent.iterdir()] == ["heads"]


def test_a_place_that_cannot_be_written_is_one_sentence(victim: User) -> None:
    with pytest.raises(CommandError, match=r"^/dev/null/heads cannot be written: "):
        call_command("ledger_heads", "/dev/null/heads")


def test_the_public_key_is_printed_and_is_enough_to_check(victim: User, file: Path) -> None:
    write_heads(file, OTHER_KEY)
    assert against(file, "--public-key", str(OTHER_KEY.public))[0] == 0
    said = StringIO()
    call_command("ledger_heads", "--public-key", stdout=said)
    assert PublicKey.of_text(said.getvalue()).id == signing.own_key().public.id


def test_a_writer_that_ends_in_the_middle_leaves_no_file(
    victim: User, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(heads.Draft, "sign", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_heads(file)
    assert list(file.parent.iterdir()) == []


def test_all_heads_are_of_one_moment(
    connections: Connections, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch posts to both users, so a snapshot has as many transactions of one as of other."""
    users = [user_with(), user_with()]

    def post(place: int = 0) -> None:
        entries = [
            ledger.balance_change_entry(user, amount=1, description="One more") for user in users
        ]
        ledger.post_batch(entries, actor=None, channel=Channel.API)

    post()
    original = heads.Head.line

    def line_while_others_post(head: heads.Head) -> str:
        connections(1, post)
        return original(head)

    monkeypatch.setattr(heads, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(heads.Head, "line", line_while_others_post)
    found = {head.id: head.number for head in heads.read(write_heads(file), _public())}
    assert [found[user.pk] for user in users] == [1, 1]
    assert ledger.balance(users[1]).number == 1 + len(found)
    monkeypatch.undo()
    assert since(file) == (0, *since(file)[1:])


def _public() -> PublicKey:
    return signing.own_key().public


# --- Files that are not to be trusted -----------------------------------------------------------


def one_byte_changed(content: bytes) -> bytes:
    middle = content.index(b",7,") + 1
    return content[:middle] + b"8" + content[middle + 1 :]


def signed_again(content: bytes) -> bytes:
    last = content.splitlines(keepends=True)[-1]
    return content.replace(last, last.replace(b'"signature":"', b'"signature":"A'))


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one byte": (one_byte_changed, "was changed after it was signed"),
    "one line less": (
        lambda content: b"".join(
            line for line in content.splitlines(keepends=True) if b',0,""' not in line
        ),
        "was changed after it was signed",
    ),
    "another signature": (signed_again, "was changed after it was signed"),
    "no signature": (
        lambda content: b"".join(content.splitlines(keepends=True)[:-1]),
        "is not complete",
    ),
    "cut in a line": (lambda content: content[:-20], "is not complete"),
    "without its end of line": (lambda content: content[:-1], "is not complete"),
    "only a header": (lambda content: content.splitlines(keepends=True)[0], "is not complete"),
    "empty": (lambda content: b"", "is not a heads file of this format"),
    "another format": (
        lambda content: content.replace(b"heads-1", b"heads-9"),
        "is not a heads file of this format",
    ),
    "a picture": (lambda content: bytes(range(256)), "is not a heads file"),
    "one long line": (lambda content: b"x" * 10_000, "has a line that is too long"),
    "nested": (lambda content: b"[" * 900, "is not a heads file of this format"),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("option", ["--heads", "--since"])
def test_a_damaged_file_is_refused_in_one_sentence(
    damage: str, option: str, victim: User, file: Path
) -> None:
    change, sentence = DAMAGE[damage]
    before = write_heads(file).read_bytes()
    file.write_bytes(change(before))
    assert file.read_bytes() != before
    with pytest.raises(CommandError, match=rf"{sentence}.* Nothing was checked\.$"):
        call_command("verify_ledger", option, str(file))


def test_a_file_signed_with_another_key_is_refused(victim: User, file: Path) -> None:
    write_heads(file, OTHER_KEY)
    with pytest.raises(CommandError, match=f"signed with another key .{OTHER_KEY.public.id}. than"):
        call_command("verify_ledger", "--heads", str(file))
    # Also if it pretends to be signed with this one.
    content = file.read_text().replace(OTHER_KEY.public.id, _public().id)
    file.write_text(content)
    with pytest.raises(CommandError, match="its signature is wrong"):
        call_command("verify_ledger", "--heads", str(file))


@pytest.mark.parametrize("path", ["/nowhere/heads", "/"])
def test_a_file_that_cannot_be_read_is_one_sentence(db: None, path: str) -> None:
    with pytest.raises(CommandError, match=rf"^{path} cannot be read: "):
        call_command("verify_ledger", "--heads", path)


@pytest.mark.parametrize("key", ["x", "ÄÖ", "MCowBQYDK2VwAyEA", f"{'A' * 60}"])
def test_what_is_not_a_public_key_is_refused(key: str, db: None, file: Path) -> None:
    with pytest.raises(CommandError, match=r"^This is not a public key\."):
        call_command("verify_ledger", "--heads", str(write_heads(file)), "--public-key", key)


def test_a_public_key_without_a_file_is_refused(db: None) -> None:
    with pytest.raises(CommandError, match="is for --heads or --since"):
        call_command("verify_ledger", "--public-key", str(OTHER_KEY.public))


# --- The key ------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_private(tmp_path: Path, settings: Any) -> None:
    settings.LEDGER_SIGNING_KEY_FILE = file = tmp_path / "new" / "key"
    made = signing.own_key().public.id
    assert signing.own_key().public.id == made
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in file.parent.iterdir()] == ["key"]
    settings.LEDGER_SIGNING_KEY = file.read_text().strip()
    settings.LEDGER_SIGNING_KEY_FILE = tmp_path / "not used"
    assert signing.own_key().public.id == made
    assert not (tmp_path / "not used").exists()


def test_a_key_file_that_cannot_be_used_is_one_sentence(tmp_path: Path, settings: Any) -> None:
    settings.LEDGER_SIGNING_KEY_FILE = file = tmp_path / "key"
    file.write_text("\n")
    with pytest.raises(UnusableKey, match=r"key is empty\."):
        signing.own_key()
    file.write_bytes(bytes(range(256)))
    with pytest.raises(UnusableKey, match=r"cannot be used: it is not a text\."):
        signing.own_key()
    settings.LEDGER_SIGNING_KEY_FILE = Path("/dev/null/key")
    with pytest.raises(UnusableKey, match="cannot be used: "):
        signing.own_key()


def test_a_public_key_in_pem_is_read(tmp_path: Path) -> None:
    pem = f"-----BEGIN PUBLIC KEY-----\n{OTHER_KEY.public}\n-----END PUBLIC KEY-----\n"
    assert PublicKey.of_text(pem).id == OTHER_KEY.public.id


# --- What the heads show ------------------------------------------------------------------------


def test_an_unchanged_ledger_is_right_against_its_heads(victim: User, file: Path) -> None:
    record()
    write_heads(file)
    for arguments in ([], ["--user", str(victim.pk)]):
        code, out, err = against(file, *arguments)
        assert (code, err) == (0, "")
        assert "Compared with the heads of 2026-11-29 03:10 UTC" in out
    go_on(victim)
    record()
    UserFactory()
    assert against(file)[0] == 0


@pytest.mark.as_owner
@pytest.mark.parametrize("option", ["--heads", "--since"])
def test_a_tail_cut_off_is_found_with_heads_and_not_without(
    option: str, victim: User, file: Path
) -> None:
    write_heads(file)
    cut_off(victim, last=5)
    assert verify()[0] == 0
    for arguments in ([], ["--user", str(victim.pk)]):
        code, out, err = verify(option, str(file), *arguments)
        assert (code, out) == (1, "")
        assert (
            f"Transaction 7 of user {victim.pk} breaks G3: it is missing, but was the last one in "
            "the heads of 2026-11-29 03:10 UTC." in err
        )


@pytest.mark.as_owner
@pytest.mark.parametrize("option", ["--heads", "--since"])
def test_a_tail_rewritten_is_found_with_heads_and_not_without(
    option: str, victim: User, file: Path
) -> None:
    write_heads(file)
    rewrite(victim, 6, 7)
    assert verify()[0] == 0
    code, _, err = verify(option, str(file))
    assert code == 1
    assert f"Transaction 7 of user {victim.pk} breaks G3: its digest is not the one in" in err
    # Going on with the rewritten history hides nothing.
    go_on(victim)
    assert verify()[0] == 0
    assert verify(option, str(file))[0] == 1


@pytest.mark.as_owner
def test_others_are_not_blamed(victim: User, file: Path) -> None:
    write_heads(file)
    cut_off(victim, last=5)
    [innocent, *_] = User.objects.filter(pk__gt=victim.pk, balance__last_number__gt=0)
    assert against(file, "--user", str(innocent.pk))[0] == 0
    assert since(file, "--user", str(innocent.pk))[0] == 0


@pytest.mark.as_owner
@pytest.mark.parametrize("option", ["--heads", "--since"])
def test_events_cut_off_are_found_with_heads_and_not_without(
    option: str, victim: User, file: Path
) -> None:
    for subject, subject_id in ((Subject.PLAN, 4), (Subject.PLAN, 5), (Subject.USER, victim.pk)):
        for _ in range(3):
            record(subject, subject_id)
    write_heads(file)
    tamper_with_events("DELETE FROM billing_event WHERE subject_id = 5 AND number = 3")
    assert verify()[0] == 0
    assert "Event 3 of plan 5 breaks G3: it is missing" in verify(option, str(file))[2]
    assert verify(option, str(file), "--user", str(victim.pk))[0] == 0
    tamper_with_events(f"DELETE FROM billing_event WHERE subject_id = {victim.pk} AND number = 3")
    found = verify(option, str(file), "--user", str(victim.pk))[2]
    assert f"Event 3 of user {victim.pk} breaks G3: it is missing" in found
    tamper_with_events("DELETE FROM billing_event")
    assert verify()[0] == 0
    assert "Event 3 of plan 4 breaks G3: it is missing" in verify(option, str(file))[2]


@pytest.mark.as_owner
@pytest.mark.parametrize("option", ["--heads", "--since"])
def test_a_user_removed_altogether_is_found(option: str, victim: User, file: Path) -> None:
    nobody = UserFactory()
    write_heads(file)
    tamper(
        "DELETE FROM billing_balance WHERE user_id = %(user)s;"
        "DELETE FROM users_user WHERE id = %(user)s",
        user=nobody.pk,
    )
    assert verify()[0] == 0
    for arguments in ([], ["--user", str(nobody.pk)]):
        code, _, err = verify(option, str(file), *arguments)
        assert code == 1
        assert f"User {nobody.pk} is missing, but is in the heads of 2026-11-29" in err
    with pytest.raises(CommandError, match=r"^There is no user with ID 4711000\.$"):
        call_command("verify_ledger", option, str(file), "--user", "4711000")


# --- Only what came since -----------------------------------------------------------------------


def checked_since(file: Path, processes: int = 1) -> verification.Checked:
    """Returns the sums over all checks, and the first problem."""
    found = list(against_heads.check_since(heads.read(file, _public()), processes=processes))
    return verification.Checked(
        sum(each.transactions for each in found),
        sum(each.users for each in found),
        found[-1].problem,
    )


def test_only_new_transactions_are_checked(victim: User, file: Path) -> None:
    record()
    write_heads(file)
    assert checked_since(file) == (0, User.objects.count(), None)
    go_on(victim)
    go_on(victim)
    newcomer = user_with_history()
    record(Subject.PLAN, 1)
    record(Subject.SERVICE, 1)
    assert checked_since(file) == (9, User.objects.count(), None)
    code, out, err = since(file)
    assert (code, err) == (0, "")
    assert f"9 new transactions of {User.objects.count()} users." in out
    assert "2 new transactions of 1 user." in since(file, "--user", str(victim.pk))[1]
    assert "7 new transactions of 1 user." in since(file, "--user", str(newcomer.pk))[1]


def test_it_reads_no_transaction_before_the_heads(victim: User, file: Path) -> None:
    """Each user's last row is read to compare it, and new rows; nothing of the 500 before them."""
    user = user_with()
    entries = [
        ledger.balance_change_entry(user, amount=1, description="One of many") for _ in range(500)
    ]
    ledger.post_batch(entries, actor=None, channel=Channel.API)
    write_heads(file)
    go_on(user)
    asked: list[str] = []

    def note(run: Callable[..., Any], query: str, *rest: Any) -> Any:
        if query.lstrip().startswith("SELECT") and "billing_transaction" in query:
            asked.append(query)
        return run(query, *rest)

    with connection.execute_wrapper(note):
        assert checked_since(file).transactions == 1
    assert len(asked) > 5
    judge()
    with as_owner():
        execute("ANALYZE billing_transaction")
    execute("SET LOCAL enable_seqscan = off; SET LOCAL search_path = pg_catalog, pg_temp")
    read = {query: sum(_rows_read(query)) for query in asked}
    execute("SET LOCAL search_path = public, pg_temp")
    assert {query: rows for query, rows in read.items() if rows > 3 * User.objects.count()} == {}


def _rows_read(query: str) -> Iterator[int]:
    """Yields how many transactions each part of a query's plan read."""
    [(plans,)] = execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")

    def walk(node: dict[str, Any]) -> Iterator[int]:
        if node.get("Relation Name") == "billing_transaction":
            rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
            yield round(rows * node["Actual Loops"])
        for each in node.get("Plans", ()):
            yield from walk(each)

    yield from walk((json.loads(plans) if isinstance(plans, str) else plans)[0]["Plan"])


# Computes the digests from row 9 to the end again.
AGAIN = """;
    UPDATE billing_transaction t SET digest = digest_of(t) WHERE {row};
    UPDATE billing_transaction t SET digest = digest_of(t)
    WHERE user_id = %(user)s AND number = 10;
    UPDATE billing_balance b SET last_digest = t.digest FROM billing_transaction t
    WHERE b.user_id = %(user)s AND t.user_id = %(user)s AND t.number = 10"""
# Edits of the victim's row 9, the second after the heads, with the first row that breaks a
# guarantee and the guarantee.
EDITS = {
    "a text": ("UPDATE billing_transaction SET device = 'Forged' WHERE {row}", 9, "G9"),
    "an amount": ("UPDATE billing_transaction SET amount = amount + 1 WHERE {row}", 9, "G2"),
    "a number": ("UPDATE billing_transaction SET number = 11 WHERE {row}", 10, "G2"),
    "a row less": ("DELETE FROM billing_transaction WHERE {row}", 10, "G2"),
    "the first row less": (
        "DELETE FROM billing_transaction WHERE user_id = %(user)s AND number = 8",
        9,
        "G2",
    ),
    "a second row with the head's number": (
        "UPDATE billing_transaction SET number = 7 WHERE user_id = %(user)s AND number = 10",
        7,
        "G[23]",  # whichever of the two comes first
    ),
    "an actor of nowhere": (
        "UPDATE billing_transaction SET actor_id = 0 WHERE {row}" + AGAIN,
        9,
        "G8",
    ),
    "an ID twice": (
        "ALTER TABLE billing_transaction DROP CONSTRAINT billing_transaction_pkey;"
        "UPDATE billing_transaction SET id = (SELECT min(id) FROM billing_transaction) "
        "WHERE {row}" + AGAIN,
        9,
        "G2",
    ),
    "a key twice": (
        "UPDATE billing_transaction SET idempotency_key = 'messages-1' WHERE {row}" + AGAIN,
        9,
        "G6",
    ),
}


@pytest.mark.as_owner
@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_after_the_heads_is_found(edit: str, victim: User, file: Path) -> None:
    write_heads(file)
    for _ in range(3):
        go_on(victim)
    assert since(file)[0] == 0
    sql, number, guarantee = EDITS[edit]
    tamper(sql.format(row="user_id = %(user)s AND number = 9"), user=victim.pk)
    for arguments in ([], ["--user", str(victim.pk)]):
        code, out, err = since(file, *arguments)
        assert (code, out) == (1, "")
        found = rf"^Transaction {number} of user {victim.pk} breaks {guarantee}: "
        assert re.match(found, err), err


OF_NOBODY = (
    "UPDATE billing_transaction SET user_id = {id} WHERE user_id = %(user)s;"
    "DELETE FROM billing_grantuse WHERE user_id = %(user)s;"
    "DELETE FROM billing_grant WHERE user_id = %(user)s;"
    "UPDATE billing_balance SET real = 0, bonus = 0, refilled = 0, bonus_refilled = 0, "
    "last_number = 0, last_digest = '', last_at = NULL WHERE user_id = %(user)s"
)


@pytest.mark.as_owner
@pytest.mark.parametrize("user_id", [-5, 0, 4711000, "gap"])
@pytest.mark.parametrize("heads_at_once", [1, 1000])
def test_new_transactions_of_nobody_are_found(
    user_id: int | str, heads_at_once: int, victim: User, file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    gap = UserFactory()
    UserFactory()
    tamper(
        "DELETE FROM billing_balance WHERE user_id = %(user)s;"
        "DELETE FROM users_user WHERE id = %(user)s",
        user=gap.pk,
    )
    write_heads(file)
    user_id = gap.pk if user_id == "gap" else user_id
    tamper(OF_NOBODY.format(id=user_id), user=user_with_history().pk)
    monkeypatch.setattr(against_heads, "HEADS_AT_ONCE", heads_at_once)
    assert f"Transaction 1 of user {user_id} breaks G1" in since(file)[2]


@pytest.mark.as_owner
@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("UPDATE billing_balance SET real = real + 1 WHERE user_id = %(user)s", "Balance of user"),
        (
            "UPDATE billing_grant SET remaining = remaining + 1 WHERE user_id = %(user)s "
            "AND number = 1; UPDATE billing_grant SET remaining = remaining - 1 "
            "WHERE user_id = %(user)s AND number = 2",
            "Grant 1 of user",
        ),
        (
            "UPDATE billing_grant SET expires_at = '2099-01-01Z' WHERE user_id = %(user)s",
            "Grant 1 of user",
        ),
        (
            "UPDATE billing_grantuse SET remaining = remaining + 1 WHERE user_id = %(user)s "
            "AND number = 8",
            "Use ",
        ),
        ("DELETE FROM billing_balance WHERE user_id = %(user)s", "Balance of user"),
    ],
)
def test_balances_and_gifts_are_checked_of_everybody(
    edit: str, said: str, victim: User, file: Path
) -> None:
    write_heads(file)
    if "number = 8" in edit:
        ledger.change_balance(victim, bonus_amount=-1, description="Taken back", **BY_PANEL)
    assert since(file)[0] == 0
    tamper(edit, user=victim.pk)
    code, _, err = since(file)
    assert code == 1
    assert err.startswith(said), err
    assert f"user {victim.pk} breaks" in err


@pytest.mark.as_owner
def test_an_edit_of_a_new_event_is_found(victim: User, file: Path) -> None:
    record()
    write_heads(file)
    for subject in (Subject.PLAN, Subject.SERVICE, Subject.PLAN):
        record(subject)
    assert since(file)[0] == 0
    tamper_with_events("UPDATE billing_event SET data = '{}', action = 'x' WHERE subject='service'")
    assert "Event 1 of service 1 breaks G9" in since(file)[2]
    tamper_with_events("DELETE FROM billing_event WHERE subject = 'plan' AND number = 2")
    assert "Event 3 of plan 1 breaks G2" in since(file)[2]


@pytest.mark.as_owner
def test_an_edit_before_the_heads_is_found_by_the_whole_check_alone(
    victim: User, file: Path
) -> None:
    write_heads(file)
    tamper(
        "UPDATE billing_transaction SET device = 'Forged' WHERE user_id = %(user)s AND number = 3",
        user=victim.pk,
    )
    assert since(file)[0] == 0
    assert f"Transaction 3 of user {victim.pk} breaks G9" in against(file)[2]


@pytest.mark.as_owner
def test_guards_are_checked_with_heads_too(victim: User, file: Path) -> None:
    write_heads(file)
    judge()
    with as_owner():
        execute("ALTER TABLE billing_balance DISABLE TRIGGER balances_match_the_last_transaction")
    for option in ("--heads", "--since"):
        code, _, err = verify(option, str(file))
        assert (code, "is disarmed" in err) == (1, True)


def test_a_clock_behind_new_transactions_is_found(victim: User, file: Path) -> None:
    write_heads(file)
    posted_ahead(timedelta(days=3), user_with(real=1))
    assert "The database's clock is wrong" in since(file)[2]


@pytest.mark.parametrize("heads_at_once", [1, 2, 3, 10_000])
def test_parts_cover_everybody_whatever_their_size(
    heads_at_once: int, victim: User, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(against_heads, "HEADS_AT_ONCE", heads_at_once)
    for number in range(3):
        record(Subject.PLAN, number)
    write_heads(file)
    for user in User.objects.all():
        go_on(user)
    newcomer = UserFactory()
    go_on(newcomer)
    users = User.objects.count()
    assert checked_since(file) == (users, users, None)
    parts = list(against_heads._parts(heads.read(file, _public()), None))
    assert sum(len(found) for _, _, found in parts) == users - 1 + 3


def test_everything_is_new_after_the_heads_of_an_empty_ledger(db: None, file: Path) -> None:
    write_heads(file)
    assert list(heads.read(file, _public())) == []
    assert checked_since(file) == (0, 0, None)
    user_with_history()
    record()
    assert checked_since(file) == (7, User.objects.count(), None)


# --- In parallel --------------------------------------------------------------------------------


@pytest.fixture
def many(committed_db: None) -> list[User]:
    return [user_with_history() for _ in range(6)]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_any_number_of_processes_finds_the_same(
    many: list[User], file: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(against_heads, "HEADS_AT_ONCE", 1)
    write_heads(file)
    for user in many:
        go_on(user)
    users = User.objects.count()
    assert checked_since(file, processes) == (6, users, None)
    whole = list(verification.check(verification.stretches(8), processes=processes))
    assert sum(part.transactions for part in whole) == Transaction.objects.count()
    for user in many[2:]:
        tamper(
            "UPDATE billing_transaction SET device = 'Forged' "
            "WHERE user_id = %(user)s AND number = 8",
            user=user.pk,
        )
    problem = checked_since(file, processes).problem
    assert problem is not None
    assert (problem.user_id, problem.number) == (many[2].pk, 8)
    whole = list(verification.check(verification.stretches(8), processes=processes))
    assert whole[-1].problem is not None
    assert (whole[-1].problem.user_id, whole[-1].problem.number) == (many[2].pk, 8)
    # What comes before the first problem is counted, and nothing after it.
    counted = list(verification.check(verification.stretches(1), processes=1))
    assert counted == list(verification.check(verification.stretches(1), processes=processes))


def test_processes_have_connections_of_their_own_and_close_them(
    many: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    together = threading.Barrier(3)
    original = verification._check_stretch

    def check(stretch: verification.Stretch) -> verification.Checked:
        if len(seen) < 3:
            together.wait(timeout=60)  # passes only if three run at the same time
            seen.add(id(connection.connection) or threading.get_ident())
        return original(stretch)

    monkeypatch.setattr(verification, "_check_stretch", check)
    parts = verification.stretches(1)[:3]
    assert len(list(verification.check(parts, processes=3))) == 9
    # The server notices a closed connection a moment later.
    end = time.monotonic() + 60
    while others_connected():
        assert time.monotonic() < end
        time.sleep(0.05)


def others_connected() -> int:
    [(count,)] = execute(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    return int(count)


def test_in_a_transaction_one_process_sees_what_is_not_yet_committed(victim: User) -> None:
    assert "21 transactions" in verify("--processes", "4")[1]


@pytest.mark.parametrize("typed", ["0", "65", "many"])
def test_a_wrong_number_of_processes_is_refused(typed: str, db: None) -> None:
    with pytest.raises(CommandError, match="--processes"):
        call_command("verify_ledger", "--processes", typed)


# --- Which files are kept -----------------------------------------------------------------------


def test_thirty_days_and_one_file_a_month_are_kept() -> None:
    names = [heads.name_at(NOW - timedelta(days=age)) for age in range(1000)]
    kept = set(names) - set(heads.superfluous(names, NOW))
    assert set(names[:31]) <= kept
    older = kept - set(names[:31])
    assert {name[8:10] for name in older} == {"01"}
    assert len(older) == 23
    assert not heads.superfluous(kept, NOW)


def test_drafts_of_killed_processes_are_removed_after_a_day(tmp_path: Path) -> None:
    for name, days in ((".draft-old", 2), (".draft-new", 0), ("2026-11-28T03-10-00Z.heads", 9)):
        (tmp_path / name).write_text("half")
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(tmp_path / name, (moment, moment))
    assert [each.name for each in heads.files_in(tmp_path)] == ["2026-11-28T03-10-00Z.heads"]
    heads.tidy(tmp_path, NOW)
    names = {each.name for each in tmp_path.iterdir()}
    assert names == {".draft-new", "2026-11-28T03-10-00Z.heads"}


def test_a_line_of_a_later_version_is_refused(file: Path, db: None) -> None:
    with heads.drafted(file, OTHER_KEY, made_at=NOW) as draft:
        pass
    with pytest.raises(UnusableHeads, match="this version cannot read"):
        heads._head_of(b'["invoice",1,2,""]', draft.path)
