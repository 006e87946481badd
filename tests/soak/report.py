"""What a run of the soak came to, as figures and for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Report:
    """What a run came to. ``answers`` counts by status, "none" where nobody answered; times are in seconds."""

    seed: int
    seconds: float
    rate: float
    faults: Counter[str] = field(default_factory=Counter)
    database_milliseconds: float = 0.0  # each way
    hints: int = 0
    copies: int = 0  # of them, bodies that had been sent before
    brake_released: int = 0  # times, by the soak
    customers_lost: int = 0  # that lost cards to empty lists for everybody, until the brake engaged
    answers: Counter[str] = field(default_factory=Counter)
    failed_over: int = 0
    median_answer: float = 0.0
    slowest_answer: float = 0.0  # of those that the first server answered, while none was paused
    deletions_accepted: int = 0
    deletion_answers: Counter[str] = field(default_factory=Counter)
    converged_after: float = 0.0
    calls_to_ottu: int = 0
    wrong: list[str] = field(default_factory=list)


def as_text(report: Report) -> str:
    """The report for people."""
    answers = ", ".join(f"{status}: {number:,}" for status, number in sorted(report.answers.items()))
    faults = ", ".join(f"{fault} {number} x" for fault, number in sorted(report.faults.items()))
    sent = report.hints / report.seconds
    return "\n".join(
        [
            f"seed              {report.seed}",
            f"ran               {report.seconds:g} s at {report.rate:g} hints a second; sent {sent:.0f}",
            f"database          {report.database_milliseconds:g} ms away, each way",
            f"faults            {faults}",
            f"hints             {report.hints:,} with {report.copies:,} copies; answers {answers}",
            f"second server     was asked for {report.failed_over:,}",
            f"answered within   {1000 * report.median_answer:.1f} ms (half), {report.slowest_answer:.2f} s (all)",
            f"deletions         {report.deletions_accepted} accepted; answers {dict(report.deletion_answers)}",
            f"calls to Ottu     {report.calls_to_ottu:,}",
            f"brake             released {report.brake_released} x; {report.customers_lost} lost cards until it engaged",
            f"converged after   {report.converged_after:g} s",
            f"wrong             {'; '.join(report.wrong) or 'nothing'}",
        ]
    )
