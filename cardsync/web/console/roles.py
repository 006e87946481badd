"""Which role each route needs, in one table: a route that is not in it answers with 403.

``writes`` marks what ``CARDSYNC_CONSOLE_READ_ONLY`` turns off. Finding sends a form, so that what a person types stands in no
URL, and changes nothing. The database asks for the same roles again where an action is carried out (migration 0023 and after).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cardsync.store.console.operators import Role


@dataclass(frozen=True, slots=True)
class Rule:
    """The lowest role that may; ``None``: no sign-in is needed."""

    role: Role | None
    writes: bool = False


OPEN: Final = Rule(None)
READS: Final = Rule("viewer")

# endpoint -> rule
ROUTES: Final[Mapping[str, Rule]] = {
    "static": OPEN,
    "health.livez": OPEN,
    "health.readyz": OPEN,
    "sign_in.show": OPEN,
    "sign_in.by_link": OPEN,
    "sign_in.use_link": OPEN,
    "issuer.begin": OPEN,
    "issuer.back": OPEN,
    "sign_in.sign_out": READS,
    "preferences.show": READS,
    "preferences.change": READS,
    "now.show": READS,
    "find.show": Rule("support"),
    "find.search": Rule("support"),
    "customers.show": READS,
    "customers.odd": READS,
    "cards.show": READS,
    "notifications.show": READS,
    "notifications.show_one": READS,
    "notifications.replay_all": Rule("operator"),
    "deletions.show": READS,
    "deletions.show_one": READS,
    "deletions.replay_all": Rule("operator"),
    "deletions.show_erasures": READS,
    "deletions.show_erasure": READS,
    "deletions.erase": Rule("admin"),
    "calls.show": READS,
    "brake.show": READS,
    "brake.release_all": Rule("operator"),
    "flows.feed": READS,
    "flows.show_endpoints": READS,
    "flows.show_deliveries": READS,
    "flows.replay_all": Rule("operator"),
    "flows.show_spool": READS,
    "flows.imports": READS,
    "operations.show": READS,
    "operations.show_one": READS,
    "access.show": Rule("operator"),
    "audit.show": READS,
    "customer_actions.look_now": Rule("support", writes=True),
    "card_actions.request_deletion": Rule("support", writes=True),
    "operation_actions.replay_event": Rule("operator", writes=True),
    "operation_actions.replay_events": Rule("operator", writes=True),
    "operation_actions.replay_deletion": Rule("operator", writes=True),
    "operation_actions.cancel_deletion": Rule("operator", writes=True),
    "operation_actions.replay_deletions": Rule("operator", writes=True),
    "operation_actions.replay_deliveries": Rule("operator", writes=True),
    "operation_actions.release_brake": Rule("operator", writes=True),
    "operation_actions.release_deletions": Rule("operator", writes=True),
    "call_actions.pause": Rule("operator", writes=True),
    "call_actions.resume": Rule("operator", writes=True),
    "endpoint_actions.enable": Rule("operator", writes=True),
    "endpoint_actions.disable": Rule("operator", writes=True),
    "endpoint_actions.try_one": Rule("operator", writes=True),
    "endpoint_actions.replay_delivery": Rule("operator", writes=True),
    "endpoint_actions.add": Rule("admin", writes=True),
    "endpoint_actions.rotate": Rule("admin", writes=True),
    "endpoint_actions.remove": Rule("admin", writes=True),
    "operation_actions.cancel": Rule("operator", writes=True),
    "operation_actions.erase": Rule("admin", writes=True),
    "access_actions.invite": Rule("admin", writes=True),
    "access_actions.disable": Rule("admin", writes=True),
    "access_actions.create_key": Rule("admin", writes=True),
    "access_actions.revoke_key": Rule("admin", writes=True),
}
