"""The state of the simulated Ottu: the cards, their customers, the agreements that they serve, and what a list shows now.

Rules: no I/O, no threads, no sleep. Time is the injected clock, randomness the seed. One lock makes every method atomic. A card's
identity is (environment, customer_id, token). One card at a time serves an agreement, and a card that serves one is locked. The
true cards (``truth``) and the cards that the list shows (``list_cards``) differ by the two lags.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from random import Random
from typing import Any, Final

from cardsync.dev.simulator.cards import Environment, SimCard, draw_facts, draw_token, refuse_unknown
from cardsync.dev.simulator.knobs import Knobs
from cardsync.dev.simulator.payments import Payments

Owner = tuple[Environment, str]

# Deleted tokens kept for each customer, so that a deleted card can be saved again with its old token.
PAST_TOKENS: Final = 8


class NoSuchCardError(Exception):
    """The customer has no such card, or it was deleted."""


@dataclass(slots=True)
class _Record:
    card: SimCard
    shows_at: float
    gone_at: float | None = None  # deleted; the list shows it until then

    def shows(self, now: float) -> bool:
        return self.shows_at <= now and (self.gone_at is None or now < self.gone_at)


class World:
    """All cards. A lag is the knobs' value at the time of the change, not of the list call."""

    def __init__(self, knobs: Knobs, clock: Callable[[], float], seed: int) -> None:
        self.knobs = knobs
        self.revision = 0  # grows with every change
        self.payments = Payments(clock)
        self._clock = clock
        self._seed = seed
        self._lock = threading.RLock()
        self._records: dict[Owner, dict[str, _Record]] = {}
        self._past: dict[Owner, list[str]] = {}
        self._agreements: dict[tuple[Environment, str], tuple[str, str]] = {}  # -> (customer_id, token)
        self._former: dict[
            tuple[Environment, str, str], tuple[str, ...]
        ] = {}  # a card's agreements that another took over
        self._saved = 0

    def turn(self, **changes: Any) -> Knobs:
        """Change some knobs, and return all of them. Raises ``pydantic.ValidationError``."""
        self.knobs = self.knobs.turned(**changes)
        return self.knobs

    def save_card(
        self, environment: Environment, customer_id: str, *, token: str | None = None, **facts: Any
    ) -> SimCard:
        """Save a card, or save an existing one again with other facts. Facts that are not given are invented.

        Raises ``TypeError`` for a fact that cards do not have.
        """
        with self._lock:
            refuse_unknown(facts)
            owner, now = (environment, customer_id), self._clock()
            # Seeded by number, so that a restored world does not draw the tokens that it already has.
            draws = Random(f"{self._seed}:card:{self._saved}")  # noqa: S311  # a replay, not a secret
            invented = draw_facts(draws)
            token = token or draw_token(draws)
            old = self._records.setdefault(owner, {}).get(token)
            self._changed()
            if old is not None and old.gone_at is None:
                old.card = replace(old.card, **facts)
                return old.card
            self._saved += 1
            first = not self.truth(environment, customer_id)
            card = SimCard(
                environment=environment,
                customer_id=customer_id,
                token=token,
                label=f"card-{self._saved:04d}",
                **{"is_preferred": first, **invented, **facts},
            )
            # A deleted card that the list still shows, saved again, does not disappear in between.
            shows_at = now if old is not None and old.shows(now) else now + self.knobs.list_lag_seconds
            self._records[owner].pop(token, None)
            self._records[owner][token] = _Record(card, shows_at)
            return card

    def pay(
        self, environment: Environment, customer_id: str, token: str, *, agreement_id: str | None = None
    ) -> SimCard:
        """Pay with a saved card; with ``agreement_id`` the card takes that agreement over from its card before.

        Raises ``NoSuchCardError``.
        """
        with self._lock:
            record = self._living(environment, customer_id, token)
            if agreement_id is not None:
                self._link(record, agreement_id)
            return record.card

    def change_card(self, environment: Environment, customer_id: str, token: str, **facts: Any) -> SimCard:
        """Change facts of a card without a notification, as when it expires. Raises ``NoSuchCardError``, ``TypeError``."""
        with self._lock:
            refuse_unknown(facts)
            record = self._living(environment, customer_id, token)
            record.card = replace(record.card, **facts)
            self._changed()
            return record.card

    def prefer(self, environment: Environment, customer_id: str, token: str) -> SimCard:
        """Make this card the only preferred one of its customer. Raises ``NoSuchCardError``."""
        with self._lock:
            chosen = self._living(environment, customer_id, token)
            for record in self._records[environment, customer_id].values():
                record.card = replace(record.card, is_preferred=record is chosen)
            self._changed()
            return chosen.card

    def delete(self, environment: Environment, customer_id: str, token: str) -> int:
        """Delete a card, through the API or in Ottu's own checkout, without a notification.

        Returns Ottu's status: 204, 404, or the status of the knobs for a locked card.
        """
        with self._lock:
            try:
                record = self._living(environment, customer_id, token)
            except NoSuchCardError:
                return 404
            if record.card.agreements:
                return self.knobs.locked_status
            record.gone_at = self._clock() + self.knobs.delete_lag_seconds
            self._former.pop((environment, customer_id, token), None)
            past = self._past.setdefault((environment, customer_id), [])
            past[:] = [*(t for t in past if t != token), token][-PAST_TOKENS:]
            self._changed()
            return 204

    def end_lags(self) -> None:
        """Let lists show the true cards from now on: what a change's lag still hid or showed is over."""
        with self._lock:
            now = self._clock()
            for records in self._records.values():
                for record in records.values():
                    record.shows_at = min(record.shows_at, now)
                    if record.gone_at is not None:
                        record.gone_at = min(record.gone_at, now)

    def end_agreement(self, environment: Environment, agreement_id: str) -> None:
        """End an agreement; its card is no longer locked by it."""
        with self._lock:
            self._unlink(environment, agreement_id)
            for owner, agreements in self._former.items():
                self._former[owner] = tuple(a for a in agreements if a != agreement_id)
            self._changed()

    def list_cards(
        self,
        environment: Environment,
        customer_id: str,
        pg_codes: Iterable[str] | None = None,
        agreement_id: str | None = None,
    ) -> list[dict[str, Any]]:
        """The cards that the list endpoint shows now, in the order in which they were saved."""
        with self._lock:
            now = self._clock()
            records = self._records.get((environment, customer_id), {})
            for token in [t for t, r in records.items() if r.gone_at is not None and r.gone_at <= now]:
                del records[token]
            cards = [record.card for record in records.values() if record.shows(now)]
            wanted = set(pg_codes or ())
            if wanted:
                cards = [card for card in cards if card.pg_code in wanted]
            if agreement_id is not None:
                serving = self._agreements.get((environment, agreement_id))
                cards = [card for card in cards if (card.customer_id, card.token) == serving]
            return [self._as_listed(card) for card in cards]

    def cards(self, environment: Environment, customer_id: str) -> list[SimCard]:
        """The customer's true cards, without lags."""
        with self._lock:
            records = self._records.get((environment, customer_id), {})
            return [record.card for record in records.values() if record.gone_at is None]

    def truth(self, environment: Environment, customer_id: str) -> set[str]:
        """The tokens of the customer's true cards, without lags."""
        return {card.token for card in self.cards(environment, customer_id)}

    def owners(self) -> list[Owner]:
        """All (environment, customer_id) that ever had a card."""
        with self._lock:
            return list(self._records)

    def past_tokens(self, environment: Environment, customer_id: str) -> list[str]:
        """Tokens of the customer's deleted cards, latest last, that are not saved now."""
        with self._lock:
            living = self.truth(environment, customer_id)
            return [t for t in self._past.get((environment, customer_id), []) if t not in living]

    def agreement_card(self, environment: Environment, agreement_id: str) -> SimCard | None:
        """The card that serves the agreement."""
        with self._lock:
            serving = self._agreements.get((environment, agreement_id))
            return None if serving is None else self._living(environment, *serving).card

    def snapshot(self) -> dict[str, Any]:
        """The true cards as plain data for ``restore``. Running lags are left out: they will be over by then."""
        with self._lock:
            cards = [asdict(c) for owner in self._records for c in self.cards(*owner)]
            past = [[*owner, tokens] for owner, tokens in self._past.items()]
            return {"saved": self._saved, "cards": cards, "past": past}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Replace everything by a snapshot. Raises ``KeyError`` or ``TypeError`` for anything else."""
        with self._lock:
            self._saved = snapshot["saved"]
            self._records, self._agreements = {}, {}
            for facts in snapshot["cards"]:
                card = SimCard(**{**facts, "agreements": tuple(facts["agreements"])})
                self._records.setdefault((card.environment, card.customer_id), {})[card.token] = _Record(
                    card, self._clock()
                )
                for agreement_id in card.agreements:
                    self._agreements[card.environment, agreement_id] = (card.customer_id, card.token)
            self._past = {(environment, customer): list(tokens) for environment, customer, tokens in snapshot["past"]}
            self._changed()

    def _living(self, environment: Environment, customer_id: str, token: str) -> _Record:
        record = self._records.get((environment, customer_id), {}).get(token)
        if record is None or record.gone_at is not None:
            raise NoSuchCardError
        return record

    def _link(self, record: _Record, agreement_id: str) -> None:
        self._unlink(record.card.environment, agreement_id)
        owner = (record.card.environment, record.card.customer_id, record.card.token)
        self._former[owner] = tuple(a for a in self._former.get(owner, ()) if a != agreement_id)
        # Auto-debit works without the payer, so a card that serves an agreement needs no CVV.
        record.card = replace(record.card, agreements=(*record.card.agreements, agreement_id), cvv_required=False)
        self._agreements[record.card.environment, agreement_id] = (record.card.customer_id, record.card.token)
        self._changed()

    def _as_listed(self, card: SimCard) -> dict[str, Any]:
        """The card as a list shows it; the knob says on which cards an agreement is shown."""
        former = self._former.get((card.environment, card.customer_id, card.token), ())
        shown = {"serving": card.agreements, "former_too": (*card.agreements, *former), "none": ()}
        return replace(card, agreements=shown[self.knobs.listed_agreements]).as_listed()

    def _unlink(self, environment: Environment, agreement_id: str) -> None:
        serving = self._agreements.pop((environment, agreement_id), None)
        if serving is not None:
            record = self._living(environment, *serving)
            left = tuple(a for a in record.card.agreements if a != agreement_id)
            former = self._former.get((environment, *serving), ())
            self._former[environment, *serving] = (*(a for a in former if a != agreement_id), agreement_id)
            record.card = replace(record.card, agreements=left)

    def _changed(self) -> None:
        self.revision += 1
