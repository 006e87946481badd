"""What holds of the parsing path for any bytes, and the genuine bodies that fuzzing begins with.

No atheris here, so that the ordinary tests run it too; ``branches`` runs it where every new branch counts.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Final

from cardsync.core.events import Event, body_hash, parse, read_event
from cardsync.core.fields import is_storable
from cardsync.core.signature import verify
from cardsync.errors import InvalidSignature, MalformedBody
from tests import payloads

KEYS: Final = ("an-older-key", payloads.KEY)
# The words of every refusal. Nothing else is ever said, so nothing of a body is.
REFUSALS: Final = frozenset(
    {
        "the body is not one JSON object in UTF-8",
        "the body is JSON, but not an object",
        "the body is nested more than 64 levels deep",
        "the signature is missing or malformed",
        "no configured key vouches for the payload",
    }
)


def check(body: bytes) -> None:
    """Read a body as the endpoint does, and further than it would. Raises what is not expected of any body."""
    assert len(body_hash(body)) == 32
    refusal = _refusal(body)
    assert refusal is None or refusal in REFUSALS, refusal


def _refusal(body: bytes) -> str | None:
    """Why the body is refused; what is not refused for its form is read, by any key that vouches for it."""
    try:
        payload = parse(body)
        _check_storable(read_event(payload))
        verify(payload, KEYS)
    except (MalformedBody, InvalidSignature) as error:
        return str(error)
    return None


def _check_storable(event: Event) -> None:
    """PostgreSQL holds every text of it, and what is of no interest names no card."""
    texts = [value for value in (getattr(event, f.name) for f in dataclasses.fields(event)) if isinstance(value, str)]
    if event.card is not None:
        assert event.ignored_because is None
        facts = event.card.facts
        texts += [v for v in (getattr(facts, f.name) for f in dataclasses.fields(facts)) if isinstance(v, str)]
        texts += [*(facts.agreements or ()), event.card.token.reveal()]
    assert all(is_storable(value) for value in texts)


def write_corpus(folder: Path) -> int:
    """Write genuine bodies, one a file; the count of them."""
    from tests.fuzz.bodies import GENUINE

    found = [payloads.signed(g, scheme=scheme) for g in GENUINE for scheme in ("standard", "subscription")]
    for number, body in enumerate(found):
        (folder / f"{number:03}.json").write_bytes(body)
    return len(found)
