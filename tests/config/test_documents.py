"""What the documents say and what is there are the same."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from billing.answers import KEPT_FOR
from billing.api.problems import OWN, STATUS_BY_CODE
from billing.errors import BillingError
from billing.ledger import OWN_KEYS
from tests.config.processes import ROOT

README = ROOT / "README.md"
# Made by installing, running and testing; everything else here is ours.
NOT_OURS = {".git", ".venv", "var", "__pycache__", "test-results", ".hypothesis"} | {
    f".{tool}_cache" for tool in ("pytest", "mypy", "ruff")
}


def our_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        yield from (Path(folder) / name for name in files)


def section(heading: str) -> str:
    _, _, rest = README.read_text().partition(f"\n## {heading}\n")
    return rest.partition("\n## ")[0]


def test_every_environment_variable_is_in_the_readme_and_the_other_way_round() -> None:
    source = (ROOT / "config" / "settings.py").read_text()
    reads = r"""(?:\benv\.\w+|ENVIRON\.get|\b_choice|\b_flag|\b_number)\(\s*"([A-Z_]+)\""""
    read = set(re.findall(reads, source))
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", section("Configure"), re.MULTILINE))
    assert "PORT" in read
    assert read == listed


def test_only_settings_read_the_environment() -> None:
    for package in ("billing", "users", "config"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name != "settings.py":
                source = file.read_text().replace("environ.get('PATH'", "")
                reads = re.search(r"os\.environ\.get|os\.getenv|os\.environ\[", source)
                assert not reads, f"{file.relative_to(ROOT)}: read it in config/settings.py"


def test_every_command_is_in_the_readme() -> None:
    folder = ROOT / "billing" / "management" / "commands"
    commands = {file.stem for file in folder.glob("[a-z]*.py")}
    assert "serve" in commands
    named = set(re.findall(r"`manage\.py ([a-z_]+)", README.read_text()))
    assert commands <= named


def test_every_make_target_is_in_the_readme() -> None:
    targets = re.findall(r"^\.PHONY: ([a-z].+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"`make ([a-z-]+)", README.read_text())
    assert set(" ".join(targets).split()) == set(named)


def test_every_error_code_is_documented_and_the_other_way_round() -> None:
    def codes(family: type[BillingError]) -> Iterator[str]:
        for error in family.__subclasses__():
            yield error.code
            yield from codes(error)

    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    # As a set: FreeOfCharge is a kind of NothingToChange, and shares its code.
    assert sorted({*codes(BillingError), *OWN}) == sorted(listed)


def test_the_documented_statuses_of_refusals_are_those_of_the_api() -> None:
    _, _, of_api = (ROOT / "docs" / "errors.md").read_text().partition("\n## In the REST API\n")
    own = re.findall(r"^\| `(\w+)` \| (\d+) \|", of_api, re.MULTILINE)
    assert {code: int(status) for code, status in own} == {k: v[0] for k, v in OWN.items()}
    others = re.findall(r"^\| (\d+) \| (`.*`) \|", of_api, re.MULTILINE)
    listed = {code: int(status) for status, codes in others for code in re.findall(r"\w+", codes)}
    assert listed == STATUS_BY_CODE


def test_every_link_of_the_documents_leads_somewhere() -> None:
    for document in (README, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_no_file_names_a_package_registry() -> None:
    # In parts, or this file would name them.
    hosts = [
        "".join(parts).encode()
        for parts in (
            ("py", "pi.org"),
            ("python", "hosted.org"),
            ("npm", "js.org"),
            ("deb.", "debian.org"),
        )
    ]
    for file in our_files():
        content = file.read_bytes()
        for host in hosts:
            assert host not in content, f"{file.relative_to(ROOT)} names {host.decode()}"


@pytest.mark.parametrize("name", ["production", "embedded", "development"])
def test_requirements_are_exact_and_hashed_and_come_from_no_address(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    assert "://" not in text
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9._-]+(\[[a-z,]+\])?==\S+", requirement), requirement
        assert "--hash=sha256:" in requirement, requirement


def test_the_reserved_keys_of_the_document_are_those_of_the_ledger() -> None:
    document = (ROOT / "docs" / "api.md").read_text()
    _, _, rest = document.partition("<!-- reserved keys -->")
    table = rest.strip().split("\n\n")[0]
    rows = re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)
    written = {re.escape(row).replace("…", ".*") for row in rows}
    assert written == set(OWN_KEYS.pattern.split("|"))


def test_the_time_for_which_answers_are_kept_is_documented() -> None:
    document = (ROOT / "docs" / "api.md").read_text()
    assert f"the answer is kept for {KEPT_FOR.days} days" in document
    assert f"| {KEPT_FOR.days} days, then key and answer are removed |" in document
