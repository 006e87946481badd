"""What verifying a sealed chain prints and how it ends: the receipts' and the journal's."""

from __future__ import annotations

import datetime as dt
from typing import Final

import click

from cardsync.cli import console
from cardsync.store.sealed_chains import Verified
from cardsync.store.seals import Chain

SEALED_WITHIN: Final = dt.timedelta(minutes=10)  # it takes a second; this long a worker may be restarting
HASH_BYTES: Final = 32

noted_option = click.option(
    "--noted", "noted_hex", metavar="HASH", help="Check that this hash, noted earlier, is still in the chain."
)


def noted_hash(text: str | None) -> bytes | None:
    """A hash as an operator noted it. Raises ``BadParameter``."""
    if text is None:
        return None
    try:
        noted = bytes.fromhex(text)
    except ValueError:
        noted = b""
    if len(noted) != HASH_BYTES:
        raise click.BadParameter("must be 64 hexadecimal digits", param_hint="--noted")
    return noted


def tell(chain: Chain, verified: Verified, *, noted: bytes | None, now: dt.datetime, as_json: bool) -> None:
    """Print what was found; say that the chain is intact, or fail with the reason why that is not proved."""
    facts: dict[str, object] = {
        f"{chain.link}s": verified.length,
        "head": verified.head.hex(),
        "broken_at": verified.broken_at,
        "sealed_to": verified.sealed_to,
        **({} if noted is None else {"noted_at": verified.noted_at}),
    }
    if as_json:
        console.print_json({"whole": verified.broken_at is None, **facts})
    else:
        console.print_facts(facts)
    if verified.broken_at is not None:
        console.fail(f"the chain is broken at {chain.link} {verified.broken_at}")
    if noted not in (None, bytes(HASH_BYTES)) and verified.noted_at is None:
        console.fail(f"the noted hash is not in the chain: {chain.link}s were changed or cut off since")
    if verified.unsealed_since is not None and now - verified.unsealed_since > SEALED_WITHIN:
        console.fail(
            f"no seal covers the {chain.link}s after {verified.sealed_to}: is a worker running? Were seals removed?"
        )
    waiting = verified.length - (verified.sealed_to or 0)
    console.note(
        f"Intact: {verified.length} {chain.link}s{f', the last {waiting} not sealed yet' if waiting else ', all sealed'}."
    )
