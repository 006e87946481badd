"""What must be true of deletions and their receipts, beside what Ottu itself remembers of every call and every list.

``check_deletions`` looks at one snapshot; ``ReceiptsWatch`` follows the receipts and asks Ottu's memory about each step;
``check_settled`` is for the end. Ottu answers a second deletion of a card with 404, so counting its successes shows little: what
is checked is that no call is made that might be a second success, before a list asked for since has shown the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection, text

from cardsync.core.deletion import LOOKS_AFTER_CALL_SECONDS, OPEN
from cardsync.store.deletions import receipts
from tests.machine.calls import Answer, Delete

_CERTAINLY_NOT_DONE: Final = (401, 429)
_LISTS: Final = ("listed", "absent")


def check_deletions(now: Any) -> None:
    """Each card under deletion has one deletion that is due by itself or through its customer; no other card has any."""
    cards = {c.card_id: c for c in now.cards}
    customers = {c.id: c for c in now.customers}
    open_ = [d for d in now.deletions if d.phase in OPEN]
    assert sorted(d.card_id for d in open_) == sorted(c.card_id for c in now.cards if c.status == "deleting"), (
        "the cards that are deleting are not those of the open deletions"
    )
    for deletion in now.deletions:
        card = cards[deletion.card_id]
        if deletion.phase in OPEN:
            assert deletion.life == card.life, "a deletion is under way for another life of its card"
            assert deletion.due_at or customers[deletion.customer].due_at, "a deletion is open and nothing is due"
        elif deletion.phase == "done":
            assert card.life > deletion.life or card.status == "removed", "a deletion is done and its card lives"
    assert [s.step_no for s in now.steps] == list(range(1, len(now.steps) + 1)), "a step is not in the chain"


def check_settled(connection: Connection, now: Any) -> None:
    """When all is quiet: every deletion has ended, and the chain is whole."""
    phases = {d.phase for d in now.deletions}
    assert phases <= {"done", "blocked", "failed"}, f"deletions never ended: {sorted(phases)}"
    assert receipts.verify(connection).broken_at is None, "the receipts' chain is broken"


@dataclass(slots=True)
class ReceiptsWatch:
    """Follows the receipts from look to look."""

    answers: Mapping[int, Answer]
    deletes: Mapping[int, Delete]
    _tokens: dict[str, str] = field(default_factory=dict)  # card -> its token, which a removed card has no more
    _steps: list[Any] = field(default_factory=list)
    _of: dict[str, list[Any]] = field(default_factory=dict)  # deletion -> its steps

    def look(self, now: Any) -> None:
        """Compare the new steps with what Ottu remembers."""
        self._tokens |= {c.card_id: c.token for c in now.cards if c.token is not None}
        assert now.steps[: len(self._steps)] == self._steps, "the past of the receipts has changed"
        deletions = {d.deletion_id: d for d in now.deletions}
        for step in now.steps[len(self._steps) :]:
            before = self._of.setdefault(step.deletion_id, [])
            self._check_step(step, before, deletions[step.deletion_id])
            before.append(step)
        self._steps = list(now.steps)
        for deletion in now.deletions:
            self._check_end(deletion, self._of[deletion.deletion_id])

    def _check_step(self, step: Any, before: list[Any], deletion: Any) -> None:
        assert bool(before) is (step.step != "asked"), "a deletion begins with something else than its request"
        if step.step == "called":
            self._check_call(step, before)
        elif step.step == "answered":
            made = self.deletes[step.detail["call_no"]]
            assert made.status in (None, step.detail["status_code"]), "the receipt tells another answer than Ottu's"
        elif step.step in _LISTS:
            number = step.detail["observation_no"]
            answer = self.answers[number]
            calls = [s.detail["call_no"] for s in before if s.step == "called"]
            assert number > max(calls, default=0), "a list asked for before the call says something of it"
            is_listed = self._tokens[deletion.card_id] in answer.cards
            assert is_listed is (step.step == "listed"), "the receipt tells another list than Ottu's"

    def _check_call(self, step: Any, before: list[Any]) -> None:
        """Not while an earlier call may have succeeded and nobody has looked since; nor while Ottu may only lag."""
        last = next((i for i in range(len(before) - 1, -1, -1) if before[i].step == "called"), None)
        if last is None:
            return
        since, call_no = before[last + 1 :], before[last].detail["call_no"]
        statuses = [s.detail.get("status_code") for s in since if s.step == "answered" and not s.detail.get("late")]
        certain = bool(statuses) and statuses[0] in (*_CERTAINLY_NOT_DONE, 403)
        again = any(s.step in ("listed", "replayed", "unlocked") for s in since)
        assert certain or again, "a second call was made before a list has shown the card"
        if statuses and statuses[0] in (204, 404) and not any(s.step == "replayed" for s in since):
            now = self.deletes.get(step.detail["call_no"])
            waited = None if now is None else now.began - self.deletes[call_no].began
            assert waited is None or waited >= LOOKS_AFTER_CALL_SECONDS[-1], f"called again after {waited} s of a lag"

    def _check_end(self, deletion: Any, steps: list[Any]) -> None:
        names = [s.step for s in steps]
        assert ("done" in names) is (deletion.phase == "done"), "the receipt tells another end than the deletion"
        if deletion.phase == "done":
            assert names[-1] == "done" or steps[-1].detail.get("late") is True, "something follows the end"
            proof, done = (s for s in steps if s.step in ("absent", "done"))
            assert proof.detail["observation_no"] == done.detail["observation_no"] == deletion.proof_no


_TABLES: Final = text("SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'cardsync'")


def tokens_left(connection: Connection, tokens: tuple[str, ...]) -> set[str]:
    """Which of these tokens stand in any row of any table."""
    everything = " UNION ALL ".join(
        f"SELECT coalesce(string_agg(t::text, ''), '') AS rows FROM {table} AS t"  # the catalog's names
        for table in connection.execute(_TABLES).scalars()
    )
    rows = "".join(connection.execute(text(everything)).scalars())
    return {token for token in tokens if token in rows or token.encode().hex() in rows}
