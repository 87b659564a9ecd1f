"""The documents match the code, and their links work."""

import os
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.core.management import get_commands

from billing.answers import KEPT_FOR
from billing.api.problems import OWN, STATUS_BY_CODE
from billing.errors import BillingError
from billing.ledger import OWN_KEYS
from tests.config.processes import ROOT

README = ROOT / "README.md"
DOCS = ROOT / "docs"
# Made by installing, running and testing; everything else belongs to the project.
NOT_OURS = {".git", ".venv", "var", "__pycache__", "test-results", ".hypothesis"} | {
    f".{tool}_cache" for tool in ("pytest", "mypy", "ruff")
}


def our_files() -> Iterator[Path]:
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in NOT_OURS]
        yield from (Path(folder) / name for name in files)


def documents() -> list[Path]:
    return sorted(file for file in our_files() if file.suffix == ".md")


def test_every_environment_variable_is_documented_and_the_other_way_round() -> None:
    source = (ROOT / "config" / "settings.py").read_text()
    reads = r"""(?:\benv\.\w+|ENVIRON\.get|\b_choice|\b_flag|\b_number)\(\s*"([A-Z_]+)\""""
    read = set(re.findall(reads, source))
    page = (DOCS / "configuration.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert "PORT" in read
    assert read == listed


def test_only_settings_read_the_environment() -> None:
    for package in ("billing", "users", "config"):
        for file in (ROOT / package).rglob("*.py"):
            if file.name != "settings.py":
                source = file.read_text().replace("environ.get('PATH'", "")
                reads = re.search(r"os\.environ\.get|os\.getenv|os\.environ\[", source)
                assert not reads, f"{file.relative_to(ROOT)}: read it in config/settings.py"


def test_every_command_is_documented() -> None:
    folder = ROOT / "billing" / "management" / "commands"
    commands = {file.stem for file in folder.glob("[a-z]*.py")}
    assert "serve" in commands
    named = set(re.findall(r"^\| `manage\.py ([a-z_]+)", operations(), re.MULTILINE))
    assert commands <= named


def operations() -> str:
    return (DOCS / "operations.md").read_text()


def test_documents_name_no_command_that_does_not_exist() -> None:
    for document in documents():
        named = set(re.findall(r"manage\.py ([a-z_]+)", document.read_text()))
        assert named <= {*get_commands()}, document.relative_to(ROOT)


def test_every_make_target_is_documented_and_the_other_way_round() -> None:
    [targets] = re.findall(r"^\.PHONY: ([a-z].+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    [table] = re.findall(
        r"\n## Commands\n(.*?)\n## ", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    assert set(targets.split()) == set(re.findall(r"`make ([a-z-]+)", table))
    for document in documents():
        named = set(re.findall(r"`make ([a-z-]+)", document.read_text()))
        assert named <= set(targets.split()), document.relative_to(ROOT)


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


def prose(text: str) -> str:
    """Returns a text without code blocks, and without the brackets in inline code."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


def anchors(document: Path) -> set[str]:
    """Returns the anchors of a document's headings, as GitHub makes them.

    The anchor of a repeated heading ends with a number.
    """
    found: Counter[str] = Counter()
    names = set()
    for heading in re.findall(r"^#{1,6} +(.*?) *$", prose(document.read_text()), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
        name = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if found[name] else name)
        found[name] += 1
    return names


def broken_links(document: Path) -> Iterator[str]:
    """Yields the links of a document to files and headings of the project that do not exist."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text())):
        path, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = (document.parent / path).resolve() if path else document
        is_there = target.is_relative_to(ROOT) and target.exists()
        headings = anchors(target) if is_there and target.suffix == ".md" else set()
        if not is_there or (anchor and anchor not in headings):
            yield link


def test_every_link_and_anchor_of_the_documents_leads_somewhere() -> None:
    broken = [
        f"{file.relative_to(ROOT)}: {link}" for file in documents() for link in broken_links(file)
    ]
    assert not broken
    assert len(documents()) > 20


@pytest.mark.parametrize(
    "link",
    ["gone.md", "#gone", "other.md#gone", "other.md#twice-2", "../..", "/etc"],
)
def test_a_link_that_leads_nowhere_is_seen(
    tmp_path: Path, link: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.config.test_documents.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# Twice\n\n# Twice\n\n```\n# Gone\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "## A heading, with `code()`!\n\n`[no](link)` and [this](#a-heading-with-code-1) "
        f"and [that](other.md#twice-1), [here]({link})\n"
    )
    assert list(broken_links(page)) == ["#a-heading-with-code-1", link]


def test_a_link_that_leads_somewhere_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.config.test_documents.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "## A heading, with `code()`!\n\n[one](#a-heading-with-code) [two](page.md) [three](.) "
        "[four](https://example.com/gone#gone) ![five](page.md#a-heading-with-code)\n"
    )
    assert list(broken_links(page)) == []


def test_the_version_is_that_of_the_changelog() -> None:
    """The version is that of the next release or, on the commit of a release, that of this one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.+?)\](.*)$", text, re.MULTILINE)
    released = [name for name, _ in headings if name != "Unreleased"]
    assert released == sorted(released, key=as_numbers, reverse=True)
    for name, rest in headings:
        is_dated = re.fullmatch(r" - \d{4}-\d\d-\d\d", rest) is not None
        assert is_dated == (name != "Unreleased"), name
    if headings[0][0] == "Unreleased":
        assert all(as_numbers(project["version"]) > as_numbers(each) for each in released)
    else:
        assert released[0] == project["version"]


def as_numbers(version: str) -> tuple[int, ...]:
    major, minor, patch = version.split(".")
    return int(major), int(minor), int(patch)


def test_the_license_is_the_one_that_the_package_names() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "Apache-2.0"
    [name] = project["license-files"]
    text = " ".join((ROOT / name).read_text().split())
    assert text.startswith("Apache License Version 2.0, January 2004")
    assert text.endswith(
        "See the License for the specific language governing permissions and "
        "limitations under the License."
    )
    assert "9. Accepting Warranty or Additional Liability." in text


def test_every_path_that_a_document_names_is_there() -> None:
    ours = r"`((?:billing|users|config|templates|tests|docs|requirements|\.ci)/[\w./*-]*)`"
    named = {
        (path, document.name)
        for document in documents()
        for path in re.findall(ours, document.read_text())
    }
    assert ("billing/ledger/", "architecture.md") in named
    gone = {f"{name}: {path}" for path, name in named if not list(ROOT.glob(path.rstrip("/")))}
    assert not gone


def test_every_test_that_a_document_names_is_there() -> None:
    tests = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in (file.stem, *re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE))
    }
    example = "test_files_hold_the_sum_of_all_refills"  # an exercise in CONTRIBUTING.md
    for document in documents():
        named = set(re.findall(r"`(test_[a-z_]+)`", document.read_text())) - {example}
        assert named <= tests, document.relative_to(ROOT)


def test_every_document_is_in_an_index() -> None:
    linked = {
        (index.parent / link).resolve()
        for index in (DOCS / "README.md", DOCS / "decisions" / "README.md")
        for link in re.findall(r"\]\(([^)#]+)\)", index.read_text())
    }
    pages = {file for file in documents() if file.is_relative_to(DOCS)} - {DOCS / "README.md"}
    assert pages <= linked


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


def test_no_file_names_a_package_registry() -> None:
    # In parts, so that this file does not name them.
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
