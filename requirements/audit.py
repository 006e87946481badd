"""Judges a report of pip-audit: what is known to be vulnerable and not accepted fails; what was not looked up is said.

    python requirements/audit.py REPORT.json [--required]

Rules: pip-audit says "no known vulnerabilities" and succeeds also where it could look nothing up, with an index that has none
of PyPI's own JSON pages; so packages are counted here, by what became of them. A network that is away is no finding: the
judgement is then "not checked", and a failure with ``--required`` alone, for the day of a release. A finding is accepted in
`accepted.toml`, by its id, with a reason and a last day; after that day it is a finding again.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACCEPTED = Path(__file__).with_name("accepted.toml")


@dataclass(frozen=True)
class Judgement:
    """How many packages were looked up and how many not, and what must be seen to."""

    looked_up: int
    not_looked_up: int
    findings: tuple[str, ...]
    accepted: tuple[str, ...]


def judge(report: dict[str, Any], accepted: list[dict[str, Any]], today: dt.date) -> Judgement:
    """Sort out a report. Raises ``KeyError`` for an accepted finding without id, package, reason or last day."""
    until = {(one["package"], one["id"]): one["until"] for one in accepted if one["reason"]}
    findings, waived, looked_up, skipped = [], [], 0, 0
    for package in report["dependencies"]:
        if "skip_reason" in package:
            skipped += 1
            continue
        looked_up += 1
        for known in package["vulns"]:
            names = {known["id"], *known.get("aliases", ())}
            days = [until[package["name"], name] for name in names if (package["name"], name) in until]
            fixed = ", ".join(known.get("fix_versions", ())) or "no version yet"
            line = f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}"
            (waived if days and max(days) >= today else findings).append(line)
    return Judgement(looked_up, skipped, tuple(findings), tuple(waived))


def main(arguments: list[str]) -> int:
    """Print the judgement; 1 for a finding, or for anything not looked up where that is required."""
    required = "--required" in arguments
    (path,) = (Path(a) for a in arguments if not a.startswith("--"))
    accepted = tomllib.loads(ACCEPTED.read_text(encoding="utf-8")).get("accepted", [])
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        print("audit: NOT CHECKED: pip-audit wrote no report (no network, or no service that it can ask)")
        return int(required)
    judged = judge(report, accepted, dt.datetime.now(dt.UTC).date())
    for line in judged.findings:
        print(f"audit: VULNERABLE: {line}")
    for line in judged.accepted:
        print(f"audit: accepted: {line}")
    print(f"audit: {judged.looked_up} packages looked up, {len(judged.findings)} findings")
    if judged.not_looked_up:
        print(f"audit: NOT CHECKED: {judged.not_looked_up} packages, which the service that was asked does not know")
    if not judged.looked_up and not judged.not_looked_up:
        print("audit: NOT CHECKED: the report names no package")
    is_whole = judged.looked_up > 0 and judged.not_looked_up == 0
    return int(bool(judged.findings) or (required and not is_whole))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
