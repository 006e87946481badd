"""Bodies that nobody sends in earnest: genuine payloads altered at every level, signed and not, cut and spliced as bytes.

Hypothesis draws what is altered, and a seed; from each such payload several bodies follow, since drawing costs more than trying.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any, Final

from hypothesis import strategies as st

from tests import payloads

GENUINE: Final = (
    payloads.payment(),
    payloads.payment(token=None),
    payloads.save_card(),
    payloads.auto_debit(),
    payloads.operation(),
    {"amount": "86.000", "currency_code": "KWD"},
)
BODIES_A_PAYLOAD: Final = 20
MARK: Final = "xx-fuzzed-xx"  # stands in what is put in, so that an answer that repeats it is found

ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, -0.0, 1e308, 10**400, -(10**30), [], {}, "", " ", "\0", "a\0b", "\ud800", "\udfff\ud800"),
    *(
        "\u202e",
        "\ufeff",
        "\x1b[31m",
        "\r\n{}",
        MARK,
        MARK * 2_000,
        "9" * 16,
        payloads.FULL_NUMBER,
        "' OR 1=1 --",
        "%s%n{0}",
    ),
    *(["a"] * 1_000, {"token": {"token": {"token": MARK}}}, {"\0": 1}, {"\ud800": MARK}, "٣" * 16, "é" * 64, "😀" * 64),
)
VALUES: Final = st.one_of(
    st.sampled_from(ODD),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(), max_size=80),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
        max_leaves=8,
    ),
)
ALTERATIONS: Final = st.lists(st.tuples(st.integers(0, 10_000), VALUES), max_size=4)
SEEDS: Final = st.integers(0, 2**32 - 1)


def altered(which: int, alterations: list[tuple[int, Any]]) -> dict[str, Any]:
    """A genuine payload with values replaced at places of any level."""
    payload = copy.deepcopy(GENUINE[which % len(GENUINE)])
    for place, value in alterations:
        places = list(places_of(payload))
        holder, name = places[place % len(places)]
        holder[name] = copy.deepcopy(value)  # one that is drawn twice would stand inside itself
    return payload


def bodies(payload: dict[str, Any], seed: int) -> Iterator[bytes]:
    """Bodies of the payload: signed under both schemes, by a stranger, not at all; whole, and altered as bytes."""
    dice = Random(seed)  # noqa: S311  (a replay)
    for _ in range(BODIES_A_PAYLOAD // 4):
        payload["timestamp_utc"] = str(dice.getrandbits(64))  # no two bodies alike
        whole = [
            signed(payload, payloads.KEY, "standard"),
            signed(payload, payloads.KEY, "subscription"),
            signed(payload, "a-key-of-somebody-else", "standard"),
        ]
        yield from whole
        yield _spoiled(whole[0], dice)


def signed(payload: dict[str, Any], key: str, scheme: Any) -> bytes:
    """The payload as JSON, with a signature where one can be made at all."""
    try:
        return payloads.signed(payload, key, scheme)
    except (ValueError, RecursionError):  # a lone surrogate, a number of too many digits
        return json.dumps({**payload, "signature": "0" * 64}).encode()


def places_of(payload: Any) -> Iterator[tuple[Any, Any]]:
    """Every value's holder and name, from the top down; none in what holds nothing."""
    level = [payload] if isinstance(payload, dict | list) else []
    while level:
        holder = level.pop(0)
        for name in holder if isinstance(holder, dict) else range(len(holder)):
            yield holder, name
            if isinstance(holder[name], dict | list):
                level.append(holder[name])


def _spoiled(body: bytes, dice: Random) -> bytes:
    """The body cut, doubled, with bytes changed, or inside something else."""
    place = dice.randrange(len(body))
    match dice.randrange(8):
        case 0:
            return body[:place]
        case 1:
            return body[:place] + bytes([dice.randrange(256)]) + body[place + 1 :]
        case 2:
            return body[:place] + body[place // 2 :]
        case 3:
            return body[:-1] + b', "signature": "' + b"0" * 64 + b'"}'
        case 4:
            return b'{"a":' * dice.randrange(1, 20_000) + body
        case 5:
            return body.replace(b'"86.000"', dice.choice((b"NaN", b"-Infinity", b"9" * 5_000, b"1e999999")))
        case 6:
            return b"\xef\xbb\xbf" + body
        case _:
            return dice.randbytes(dice.randrange(200)) + body[place:]
