"""A real Prometheus that scrapes a running system, with the rules as they are shipped, but for time.

In a copy of the rules their ``for`` is taken out and their windows are shortened, as "for five minutes" and "in the last five
minutes" would make each case ten minutes long. One threshold is lowered: a tenth of PostgreSQL's queue for NOTIFY is 800 MB.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from cardsync.dev.servers.ports import free_port
from tests.waiting import until

RULES: Final = Path(__file__).resolve().parents[2] / "deploy/prometheus/rules.yaml"
WINDOW: Final = "15s"  # in place of each window: longer than a busy machine's pause between two scrapes
OFFSET: Final = "4s"
SECONDS: Final = 180.0  # for an alert to fire, or to end
LOWERED: Final = {"cardsync_notification_queue_usage) > 0.1": "cardsync_notification_queue_usage) > 5e-6"}  # 5 pages

Alert = tuple[str, str]  # its name and severity


def alerts() -> set[Alert]:
    """Those of the rules: an objective has two, with one name."""
    return {(rule["alert"], rule["labels"]["severity"]) for rule in _rules(_shipped()) if "alert" in rule}


def _shipped() -> dict[str, Any]:
    shipped: dict[str, Any] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return shipped


def _rules(groups: dict[str, Any]) -> list[dict[str, Any]]:
    return [rule for group in groups["groups"] for rule in group["rules"]]


def _shortened() -> dict[str, Any]:
    groups = _shipped()
    for rule in _rules(groups):
        rule.pop("for", None)
        rule["expr"] = re.sub(r"\[\d+[mh]\]", f"[{WINDOW}]", rule["expr"])
        rule["expr"] = re.sub(r"\boffset \d+[mh]\b", f"offset {OFFSET}", rule["expr"])
        for shipped, lowered in LOWERED.items():
            rule["expr"] = rule["expr"].replace(shipped, lowered)
    return groups


class Prometheus:
    """One server, started for the test, that scrapes the web of a system every two seconds."""

    def __init__(self, folder: Path, target: str) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        (folder / "rules.yaml").write_text(yaml.safe_dump(_shortened()), encoding="utf-8")
        config = {
            "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [{"job_name": "cardsync", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._folder = folder

    @contextmanager
    def running(self, program: str) -> Iterator[Prometheus]:
        """Run the server within the block."""
        with (self._folder / "log").open("wb") as log:
            place = [f"--config.file={self._folder}/prometheus.yaml", f"--storage.tsdb.path={self._folder}/data"]
            process = subprocess.Popen(
                [program, *place, f"--web.listen-address={self.url.removeprefix('http://')}", "--log.level=warn"],
                stdout=log,
                stderr=log,
            )
            try:
                until(self._is_ready, "Prometheus answers")
                yield self
            finally:
                process.kill()  # nobody reads its data again, and to end in good order takes a while
                process.wait()

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/-/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expr: str) -> list[Any]:
        """What an expression gives now. An expression that Prometheus does not take is an error."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expr}, trust_env=False, timeout=60).json()
        assert answer["status"] == "success", (expr, answer)
        return list(answer["data"]["result"])

    def watch(self, *names: str) -> Watch:
        """Watch these alerts from now on; none of them fires now, also none of an earlier test."""
        watch = Watch(self, frozenset(names))
        watch.until_over()
        watch.began = time.time()
        return watch

    def firing(self, lately_seconds: int = 0) -> set[Alert]:
        """The alerts that fire now, or did within the last seconds."""
        firing = 'ALERTS{alertstate="firing"}'
        found = self.query(f"last_over_time({firing}[{lately_seconds}s])" if lately_seconds else firing)
        return {(one["metric"]["alertname"], one["metric"]["severity"]) for one in found}


@dataclass
class Watch:
    """Some alerts, in all their severities, since ``began``."""

    prometheus: Prometheus
    names: frozenset[str]
    began: float = 0.0

    def until_fired(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until each has fired since then, with ``meanwhile`` done again and again.

        An alert on an increase fires for the length of its window: it may be over by the time that the last one begins.
        """
        missing = {alert for alert in alerts() if alert[0] in self.names}

        def all_fired() -> bool:
            meanwhile()
            since = max(1, math.floor(time.time() - self.began))
            missing.difference_update(self.prometheus.firing(lately_seconds=since))
            return not missing

        _until(all_fired, "fired", missing)

    def until_over(self) -> None:
        """Wait until none of them fires."""
        left: set[Alert] = set()

        def all_over() -> bool:
            left.clear()
            left.update(one for one in self.prometheus.firing() if one[0] in self.names)
            return not left

        _until(all_over, "over", left)


def _until(condition: Callable[[], bool], what: str, left: set[Alert]) -> None:
    try:
        until(condition, what, seconds=SECONDS)
    except AssertionError:
        raise AssertionError(f"not {what} within {SECONDS:g} s: {sorted(left)}") from None
