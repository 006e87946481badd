"""What the machine chooses from, at every step.

Few of each thing, so that they meet; mostly nothing goes wrong, since otherwise nothing would ever go on. What comes first in
a list is what a failing example shrinks to.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from hypothesis import strategies as st

from cardsync.dev.simulator.world import Owner
from tests.machine.interruptions import IN_A_TRANSACTION, OF_A_DRAIN, OF_ONE_STATEMENT
from tests.machine.scripts import Fault, OddEntry, Place, Script
from tests.machine.system import TOKENS, Way

# One identifier in both environments, one token at several customers, one agreement at several.
OWNERS: Final[tuple[Owner, ...]] = (("sandbox", "o'brien/é%"), ("sandbox", "bob"), ("production", "o'brien/é%"))
AGREEMENTS: Final = ("agreement-a", "agreement-b")
FACES: Final[tuple[dict[str, Any], ...]] = (
    {"name_on_card": "FAKE HOLDER TWO"},
    {"name_on_card": None},
    {"expiry_month": "12", "expiry_year": "20", "is_expired": True},
    {"expiry_year": "61", "is_expired": False},
    {"cvv_required": False},
    {},  # it is preferred
)

Fate = Literal["believed", "processed", "delivered", "waiting", "dropped"]  # what becomes of a notification at once

OWNER = st.sampled_from(OWNERS)
TOKEN = st.sampled_from(TOKENS)
PLACE = st.integers(0, 5)  # in a list of whatever there is, modulo its length: shrinks to the first
FATE: st.SearchStrategy[Fate] = st.sampled_from(
    ("processed", "believed", "processed", "delivered", "waiting", "dropped")
)
INTERRUPTION = st.sampled_from((*(None,) * 3 * len(IN_A_TRANSACTION), *IN_A_TRANSACTION))
DRAINING = st.sampled_from((*(None,) * len(OF_A_DRAIN), *OF_A_DRAIN))
RECEIVING = st.sampled_from((*(None,) * 3 * len(OF_ONE_STATEMENT), *OF_ONE_STATEMENT))
FAULTS: Final[tuple[Fault, ...]] = (
    *("unavailable", "fault", "throttled", "throttled_long", "credentials", "rejected", "anothers_card"),
    *("crash", "crash_unasked"),
)
FAULT: st.SearchStrategy[Fault | None] = st.sampled_from((*(None,) * 2 * len(FAULTS), *FAULTS))
PLACES: Final[tuple[Place, ...]] = ("before", "after")
AT = st.sampled_from(PLACES)
STANDS: st.SearchStrategy[Place | None] = st.sampled_from((None, None, "before", "after"))
SCRIPT = st.builds(Script, stands=STANDS, fault=FAULT, at=AT, pages=st.sampled_from((1, 1, 1, 2)))
# A call that may have succeeded is the hard case: most of what goes wrong is one.
DELETING_FAULTS: Final[tuple[Fault, ...]] = (
    *("unavailable", "unavailable", "fault", "throttled", "throttled_long", "credentials", "rejected"),
    *("forbidden", "not_there", "crash", "crash", "crash_unasked"),
)
DELETING_FAULT: st.SearchStrategy[Fault | None] = st.sampled_from((*(None,) * len(DELETING_FAULTS), *DELETING_FAULTS))
DELETING = st.builds(Script, stands=STANDS, fault=DELETING_FAULT, at=AT)
WAYS: Final[tuple[Way, ...]] = ("http", "sql", "sql_rolled_back")
WAY = st.sampled_from(WAYS)
KEY = st.sampled_from((None, None, "key-1", "key-2"))
Order = Literal["in_order", "reversed", "list_first"]  # in which two hints are taken, or after a list that came later
ORDERS: Final[tuple[Order, ...]] = ("in_order", "reversed", "list_first")
TROUBLES: Final[tuple[Fault | None, ...]] = (None, "credentials", "anothers_card")  # of one customer, for a while
ODD_ENTRIES: Final[tuple[OddEntry | None, ...]] = (None, "twice", "without_token", "long_token", "incomplete")
LAGS: Final = (0.0, 5.0, 60.0, 130.0)  # seconds; the last is longer than a hint is believed to be early
