"""What the benchmark measured: lines with a target and a verdict, kept in results.json.

results.json has the parts of each server, each with the facts of its own run. A run that measures
some parts replaces these and leaves the others.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

PATH: Final = Path(__file__).with_name("results.json")

# The parts in the order of the page, and their headings.
PARTS: Final = {
    "posting": "Posting, one connection",
    "hot": "Posting, many connections",
    "instructions": "Instructions of the database server for one posting",
    "http": "The Billing API over HTTP",
    "charging": "The charging run",
    "size": "Size of the ledger",
    "verify": "verify_ledger",
    "pages": "Pages: Python's processor time, size, statements",
    "export": "Files",
    "tab": "The Transactions tab of a long history",
    "growth": "Growth of the table",
    "earlier": "Against an earlier version of the code",
}

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure. `target` is like "≥ 0.7"; `value` is None if nothing could be measured."""

    what: str
    shown: str
    value: float | None
    detail: str = ""
    target: str = ""

    @property
    def is_met(self) -> bool | None:
        """None without a target or a measurement."""
        if not self.target or self.value is None:
            return None
        direction, bound = _read(self.target)
        return self.value >= bound if direction == "≥" else self.value <= bound

    @property
    def verdict(self) -> str:
        if not self.target:
            return ""
        if self.value is None:
            return "not measured"
        if self.is_met:
            return "met"
        _, bound = _read(self.target)
        share = abs(self.value - bound) / bound
        return f"**missed** by {f'{share:.0%}' if share >= 0.01 else 'less than 1%'}"


def _read(target: str) -> tuple[str, float]:
    direction, number, *_ = target.split()
    if direction not in ("≥", "≤"):
        raise ValueError(f"A target begins with ≥ or ≤, unlike {target}.")
    return direction, float(number.replace(",", ""))


def ratio(what: str, ours: str, theirs: str, value: float, target: str = "") -> Line:
    """A line that compares two figures, written like "ledger 332/s" and "floor 810/s"."""
    return Line(
        what=what, shown=f"{value:.2f}", value=value, detail=f"{ours}; {theirs}", target=target
    )


def not_measured(what: str, why: str, target: str = "") -> Line:
    return Line(what=what, shown="not measured", value=None, detail=why, target=target)


def missing(why: str) -> dict[str, Any]:
    """The results of a server that could not be measured."""
    return {"missing": why, "parts": {}}


def load(path: Path = PATH) -> Results:
    return json.loads(path.read_text()) if path.exists() else {}


def save(results: Results, path: Path = PATH) -> None:
    path.write_text(json.dumps(results, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def merged(old: Results, new: Results) -> Results:
    """Returns the old results with the measured parts replaced."""
    servers = dict(old)
    for server, found in new.items():
        before = servers.get(server, {})
        if "missing" in found and before.get("parts"):
            continue  # what was measured elsewhere stays
        servers[server] = {**found, "parts": {**before.get("parts", {}), **found["parts"]}}
    return servers


def as_part(facts: dict[str, str], lines: Iterable[Line]) -> dict[str, Any]:
    return {"facts": facts, "lines": [asdict(line) for line in lines]}


def lines_of(results: Results, server: str, part: str) -> list[Line]:
    found = results[server].get("parts", {}).get(part, {})
    return [Line(**line) for line in found.get("lines", [])]
