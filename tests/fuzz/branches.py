"""``python -m tests.fuzz.branches``: the parsing path under atheris, which goes after every branch that no body has reached.

Options are libFuzzer's: ``-runs=N -seed=S -max_total_time=SECONDS``. Linux only, with ``requirements/fuzz.txt``.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris

# Instrumented is what is loaded inside here, and nothing that was loaded before.
with atheris.instrument_imports(include=["cardsync", "json", "ottu.utils"]):
    from tests.fuzz.parsing import check, write_corpus

from tests.fuzz.bodies import ODD, places_of, signed
from tests.payloads import KEY

BYTES_MAX = 8_192  # what is longer has no other branches, and finds them more slowly


def altered(body: bytes, max_bytes: int, seed: int) -> bytes:
    """Another body: half of the time bytes are changed, else a value of the JSON is, and the whole is mostly signed again."""
    dice = Random(seed)  # noqa: S311  (a replay)
    try:
        payload = json.loads(body)
        holder, name = dice.choice(list(places_of(payload)))
        if dice.random() < 0.5:
            raise ValueError
    except (ValueError, RecursionError, IndexError, TypeError):
        return bytes(atheris.Mutate(body, max_bytes))
    old = holder[name]
    changed = atheris.Mutate(str(old).encode("utf-8", "replace"), 64).decode("utf-8", "replace")
    holder[name] = copy.deepcopy(dice.choice((changed, changed, old, dice.choice(ODD))))
    if isinstance(payload, dict) and dice.random() < 0.9:
        body = signed(payload, KEY, dice.choice(("standard", "subscription")))
    return body[:max_bytes]


def main() -> None:
    """Fuzz, from genuine bodies on, until the options say that it is enough; a finding ends it with another status."""
    with tempfile.TemporaryDirectory() as corpus:
        write_corpus(Path(corpus))
        atheris.Setup(
            [*sys.argv, f"-max_len={BYTES_MAX}", f"-artifact_prefix={tempfile.gettempdir()}/", corpus],
            check,
            custom_mutator=altered,
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()
