"""Attacks on real processes: web, worker, beat, broker and PostgreSQL, with and without Ottu's list.

Each attack has its measure in counts: honest hints that became cards, rows, customers, calls, and the work that a lock stops.
None is about time. The limits are the product's own numbers; where a setting has one, it is small here, so that the attack
reaches it.
"""

from __future__ import annotations

import json
import math
import secrets
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from cardsync.core.inquiry_limits import PAYMENTS_A_SIGNATURE
from cardsync.core.repeats import APART_SECONDS, ROWS_A_SIGNATURE, STRANGERS_A_SIGNATURE, signature_hash
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.dev.simulator.payloads import body, sign
from cardsync.spool.names import parse_segment
from cardsync.spool.room import REPEATS_SHARE
from cardsync.store.access import keys
from tests.e2e.brokers import Broker
from tests.e2e.conftest import new_database
from tests.e2e.marks import ONE_BROKER
from tests.e2e.processes import run
from tests.e2e.system import ENVIRONMENT, System, running, searched, token_of
from tests.logins import ProcessLogins, ServiceLogins
from tests.store.test_locks import OLD_NUMBERS
from tests.waiting import until

pytestmark = ONE_BROKER

SPOOL_ROWS: Final = 300
FLOOR: Final = 10  # deletions that one asker may ask for in a day
SETTINGS = {
    "CARDSYNC_SPOOL_MAX_FILES": str(SPOOL_ROWS),
    "CARDSYNC_DELETION_BRAKE_FLOOR": str(FLOOR),
    "OTTU_TIMEOUT_S": "20",  # so that no call is made twice for want of an answer, however busy the machine is
}

SECONDS: Final = 180.0  # deadlines of conditions
SENDERS: Final = 8
FLOOD: Final = 500
HONEST: Final = 20
KNOWN: Final = 10  # customers with a card; the flood names them too

Payload = dict[str, Any]


@pytest.fixture
def no_lists(
    tmp_path: Path, broker: Broker, postgres: EmbeddedPostgres, template_database: str, logins: ProcessLogins
) -> Iterator[System]:
    """A second system, where Ottu offers no list (KSA) and the webhook's key is bound to its environment."""
    with new_database(postgres, template_database) as url:
        made = System(tmp_path, url, broker, logins, binding=f"{ENVIRONMENT}:", OTTU_CARDS_API="unavailable")
        made.simulator.turn(signature_scheme="subscription", inquiry_after_seconds=0)
        with running(made), searched(made):
            yield made


@pytest.fixture
def intruders(system: System) -> Iterator[ServiceLogins]:
    """Logins of services in the system's database."""
    made = ServiceLogins(system.settings["CARDSYNC_DATABASE_URL"])
    yield made
    made.close()


# One genuine body, altered.


def test_a_flood_of_altered_bodies_stays_small_and_every_honest_hint_makes_its_card_active(system: System) -> None:
    known = customers_with_a_card(system, KNOWN)
    genuine = own_payment(system)
    strangers = [system.customer("stranger") for _ in range(FLOOD)]
    flood = altered_bodies(system, genuine, [*known, *strangers][:FLOOD])
    honest = honest_hints(system)
    began_at = time.time()
    attacked, answered = sent(system, flood, list(honest.values()))
    assert ({a.status_code for a in attacked}, {a.status_code for a in answered}) == ({200}, {200})
    system.until_active(*honest, seconds=SECONDS)
    until_settled(system, strangers)

    assert 0 < rows_of(system, genuine) <= ROWS_A_SIGNATURE
    named = system.sql("SELECT customer_id FROM cardsync.customers WHERE customer_id = ANY(%s)", strangers)
    assert 0 < len(named) <= STRANGERS_A_SIGNATURE
    # Calls of all lanes are counted here, at most two a minute for each. That repeats alone cause one is in ``test_replays``.
    minutes = math.ceil((time.time() - began_at) / APART_SECONDS)
    asked = Counter(calls_about(system, [*strangers, *known], began_at))
    assert max(asked.values()) <= 2 * minutes
    assert set(asked) <= {*known, *(row["customer_id"] for row in named)}
    assert count(system, "registry.cards WHERE status = 'active' AND customer_id = ANY(%s)", strangers) == 0
    assert [system.changes(customer) for customer in known] == [["added"]] * len(known)


def test_a_flood_while_the_database_is_away_takes_its_share_of_the_disk_and_no_honest_hint_its_place(
    system: System, postgres: EmbeddedPostgres
) -> None:
    genuine = own_payment(system)
    flood = altered_bodies(system, genuine, [system.customer("stranger") for _ in range(FLOOD)])
    honest = honest_hints(system)
    share = SPOOL_ROWS // REPEATS_SHARE
    postgres.kill()
    try:
        attacked, answered = sent(system, flood, list(honest.values()))
        waiting = [name for name in map(parse_segment, spooled(system)) if name is not None]
    finally:
        postgres.start()
    assert [(a.status_code, a.json()["status"]) for a in answered] == [(200, "accepted")] * HONEST
    taken = [a.status_code for a in attacked].count(200)
    assert 0 < taken <= 1 + share  # the first of a signature that waits is no repeat
    assert {a.status_code for a in attacked} == {200, 503}
    assert sum(one.repeats for one in waiting) <= share
    assert sum(one.rows for one in waiting) == HONEST + taken
    system.until_active(*honest, seconds=SECONDS)
    until(lambda: not spooled(system), "the spool is empty", seconds=SECONDS)
    until(lambda: system.get("/readyz").json()["status"] == "ready", "the web is ready again", seconds=SECONDS)
    assert rows_of(system, genuine) <= ROWS_A_SIGNATURE


def test_where_there_is_no_list_no_altered_body_moves_an_agreement_or_makes_a_card_active(no_lists: System) -> None:
    system, checkout = no_lists, no_lists.simulator.checkout
    victim, attacker = system.customer("victim"), system.customer("attacker")
    agreement = f"agr-{victim}"
    agreed = []
    for _ in range(2):
        token = token_of(system.save_card(victim))
        agreed.append(checkout().agree(ENVIRONMENT, victim, token, agreement_id=agreement))
        system.delivered(agreed[-1])
    system.until_active(victim, cards=2, seconds=SECONDS)
    charged = until(lambda: charged_card(system, agreement, token), "the second card serves it", seconds=SECONDS)

    own, key = system.save_card(attacker, notify=False).event, system.simulator.webhook_key
    assert own is not None
    standard, subscribed = sign(own, key), sign(own, key, "subscription")
    older = sign(agreed[0].event or {}, key, "subscription")
    greedy = {"agreements": [agreement], "is_preferred": True}
    invented = [system.customer("stranger") for _ in range(FLOOD)]
    flood = [
        body({**subscribed, "token": {**subscribed["token"], **greedy}}),  # no other body had its signature before
        body(older),  # byte for byte as it came
        *(body({**older, "token": {**older["token"], **greedy, "number": f"**** {n:04d}"}}) for n in range(50)),
        *altered_bodies(system, standard, [victim] * 50, agreement={"id": agreement}, **greedy),
        *altered_bodies(system, standard, invented, agreement={"id": agreement}, **greedy),
    ]
    for content in flood[:2]:
        assert system.post_hint(content).status_code == 200
    attacked, _ = sent(system, flood[2:], [])
    assert {a.status_code for a in attacked} == {200}

    def is_as_before() -> None:
        assert charged_card(system, agreement, token) == charged
        active = system.sql("SELECT * FROM registry.cards WHERE status = 'active' ORDER BY first_seen_at")
        assert [card["customer_id"] for card in active] == [victim, victim, attacker]
        assert [list(card["agreements"]) for card in active] == [[], [agreement], []]

    until_settled(system, [])
    is_as_before()
    # Only Ottu's own answer, below, may say of a card that it is preferred.
    assert count(system, "registry.cards WHERE status = 'active' AND is_preferred") == 0
    assert 0 < rows_of(system, standard) <= ROWS_A_SIGNATURE
    assert system.metrics()["cardsync_unconfirmed_hints_total", ("repeated_signature",)] > 0
    assert system.simulator.calls() == []
    waiting = "FROM cardsync.inquiries WHERE status = 'waiting'"
    system.sql("UPDATE cardsync.inquiries SET heard_at = heard_at - interval '1 hour', due_at = now()")
    until(lambda: not system.sql(f"SELECT 1 {waiting}"), "Ottu was asked about the payments", seconds=SECONDS)
    until_settled(system, [])
    is_as_before()
    asked = system.simulator.calls()
    assert {call.endpoint for call in asked} == {"inquiry"}
    assert len(asked) <= 2 * PAYMENTS_A_SIGNATURE  # two signatures came again


# One login of a service.


def test_locks_and_an_open_transaction_of_services_stop_nobody_else(system: System, intruders: ServiceLogins) -> None:
    (asked_about, kept), key = customers_with_a_card(system, 2), system.key("cards:delete")
    reader = intruders.connect(intruders.login("reader"))
    for number in OLD_NUMBERS:
        assert reader.execute("SELECT pg_try_advisory_lock(%s)", [number]).fetchone() == (True,)
    asker = intruders.connect(intruders.login("deleter"), autocommit=False)
    asker.execute("SET CONSTRAINTS ALL IMMEDIATE")
    (card,) = system.cards(asked_about)
    asker.execute("SELECT registry.request_deletion(%s, 'a service', NULL)", [card["card_id"]])

    (another,) = customers_with_a_card(system, 1)
    until(lambda: system.changes(another) == ["added"], "the feed has it", seconds=SECONDS)
    until_swept(system)
    (fresh,) = system.sql(
        "UPDATE cardsync.customers SET reconciled_at = reconciled_at - interval '1 day'"
        " WHERE customer_id = %s RETURNING reconciled_at AS at",
        kept,
    )
    until(lambda: system.freshness(kept)["reconciled_at"] > fresh["at"], "a routine look", seconds=SECONDS)
    wish = {"card_id": str(system.cards(another)[0]["card_id"])}
    asked = system.post("/v1/deletions", key, idempotency_key=secrets.token_hex(16), **wish)
    assert asked.status_code == 202
    path = asked.headers["Location"]
    until(lambda: system.get(path, key).json()["status"] == "done", "the deletion is proved", seconds=SECONDS)
    assert system.changes(another) == ["added", "deleting", "removed"]

    assert system.changes(asked_about) == ["added"]
    assert not system.simulator.calls("delete", customer_id=asked_about)
    asker.rollback()
    assert system.statuses(asked_about) == ["active"]


def test_one_statement_that_asks_for_many_deletions_deletes_the_floor_until_an_operator_lets_the_rest_go(
    system: System, intruders: ServiceLogins
) -> None:
    everybody = customers_with_a_card(system, 3 * FLOOR)
    until(
        lambda: count(system, "cardsync.deletion_brake WHERE floor = %s", FLOOR), "the setting holds", seconds=SECONDS
    )
    held_before = system.metrics()["cardsync_deletions_held", ()]
    service = intruders.connect(intruders.login("deleter"))
    service.execute(
        "SELECT registry.request_deletion(card_id, 'a service', NULL) FROM registry.active_cards"
        " WHERE customer_id = ANY(%s)",
        [everybody],
    )
    theirs = "registry.deletions WHERE status = 'done' AND customer_id = ANY(%s)"
    until(lambda: count(system, theirs, everybody) == FLOOR, "the floor is deleted", seconds=SECONDS)
    until_swept(system)
    assert (len(deleted(system, everybody)), count(system, theirs, everybody)) == (FLOOR, FLOOR)
    held = "registry.deletions WHERE code = 'held' AND customer_id = ANY(%s)"
    assert count(system, held, everybody) == len(everybody) - FLOOR

    system.processes["worker"].says("deletions_held")
    number = held_before + len(everybody) - FLOOR
    until(lambda: system.metrics()["cardsync_deletions_held", ()] == number, "the metric tells it", seconds=SECONDS)
    told = run(system.folder, system.settings, "doctor", "--offline", "--json")
    system.seen(told.stdout + told.stderr)
    (check,) = (one for one in json.loads(told.stdout)["checks"] if one["name"] == "requests")
    assert (check["status"], str(len(everybody) - FLOOR) in check["found"]) == ("failed", True)

    released = run(system.folder, system.settings, "brake", "release", "--requests")
    assert released.returncode == 0, released.stderr
    until(lambda: count(system, theirs, everybody) == len(everybody), "the rest goes", seconds=SECONDS)
    assert len(deleted(system, everybody)) == len(everybody)


# One key of the API.


def test_a_key_that_asks_for_fresh_lists_in_a_loop_spends_its_quota_and_a_fresh_hint_makes_its_card_active(
    system: System,
) -> None:
    quota, key = 10, system.key("cards:read")
    system.sql("UPDATE cardsync.api_keys SET calls_per_day = %s WHERE key_hash = %s", quota, keys.key_hash(key))
    invented = [system.customer("invented") for _ in range(6 * quota)]

    def read(customer: str) -> bool:
        answer = system.get("/v1/cards", key, environment=ENVIRONMENT, customer_id=customer, max_age=0)
        assert (answer.status_code, answer.json()["cards"]) == (200, [])
        return bool(answer.json()["stale"])

    began_at = time.time()
    with ThreadPoolExecutor(SENDERS) as readers:
        reads = [readers.submit(read, customer) for customer in invented]
        (hinted,) = customers_with_a_card(system, 1)
        stale = [one.result(SECONDS) for one in reads]
    assert stale.count(False) <= quota
    assert 0 < len(calls_about(system, invented, began_at)) <= quota
    assert count(system, "cardsync.customers WHERE customer_id = ANY(%s)", invented) <= quota
    assert system.changes(hinted) == ["added"]


# What honest people do.


def customers_with_a_card(system: System, number: int) -> list[str]:
    """Customers who save a card that is notified, with nothing left to do for them."""
    made = [system.customer() for _ in range(number)]
    for customer in made:
        system.save_card(customer)
    system.until_active(*made, seconds=SECONDS)
    for customer in made:
        system.until_settled(customer, seconds=SECONDS)
    return made


def honest_hints(system: System) -> dict[str, bytes]:
    """Notifications that were not sent yet, by the customers whose cards they make known."""
    return {customer: system.notification(customer)[0] for customer in [system.customer() for _ in range(HONEST)]}


# What the attacker does.


def own_payment(system: System) -> Payload:
    """The attacker's own payment: a genuine body, which Ottu sent."""
    content, _ = system.notification(attacker := system.customer("attacker"))
    assert system.post_hint(content).status_code == 200
    system.until_active(attacker, seconds=SECONDS)
    payload: Payload = json.loads(content)
    return payload


def altered_bodies(
    system: System, genuine: Payload, customers: Sequence[str], *, agreement: Payload | None = None, **facts: Any
) -> list[bytes]:
    """For each of these customers a body with the genuine signature, an invented card and another session."""
    more = {} if agreement is None else {"agreement": agreement}
    return [
        body(
            {
                **genuine,
                **more,
                "customer_id": customer,
                "session_id": f"{uuid.uuid4().hex:0>40}",
                "token": {**genuine["token"], **facts, "customer_id": customer, "token": invented_token(system)},
            }
        )
        for customer in customers
    ]


def invented_token(system: System) -> str:
    return system.keep_secret(f"9999{secrets.randbelow(10**12):012d}")


def sent(
    system: System, flood: Sequence[bytes], honest: Sequence[bytes]
) -> tuple[list[httpx.Response], list[httpx.Response]]:
    """Send all of these, the honest ones evenly among the flood; the answers to the flood, and to the honest ones."""
    apart = len(flood) // max(1, len(honest))
    attacked: list[Future[httpx.Response]] = []
    answered: list[Future[httpx.Response]] = []
    with ThreadPoolExecutor(SENDERS) as senders:
        for number, content in enumerate(flood):
            attacked.append(senders.submit(system.post_hint, content))
            if number % apart == 0 and number // apart < len(honest):
                answered.append(senders.submit(system.post_hint, honest[number // apart]))
    return [one.result() for one in attacked], [one.result() for one in answered]


# What came of it.


def count(system: System, what: str, *parameters: object) -> int:
    """The number of rows of this table, by this condition."""
    return int(system.sql(f"SELECT count(*) AS rows FROM {what}", *parameters)[0]["rows"])


def rows_of(system: System, genuine: Mapping[str, Any]) -> int:
    """The rows of the inbox that repeat this body's signature."""
    return count(
        system, "cardsync.events WHERE repeated AND signature_hash = %s", signature_hash(str(genuine["signature"]))
    )


def calls_about(system: System, customers: Collection[str], since: float) -> list[str]:
    """The customers among these whose lists Ottu was asked for since then, once for each call."""
    wanted = frozenset(customers)
    return [call.customer_id for call in system.simulator.calls("list", since=since) if call.customer_id in wanted]


def deleted(system: System, customers: Collection[str]) -> list[str]:
    """The customers among these for which Ottu was told to delete a card, once for each call."""
    wanted = frozenset(customers)
    return [call.customer_id for call in system.simulator.calls("delete") if call.customer_id in wanted]


def charged_card(system: System, agreement_id: str, token: str) -> uuid.UUID | None:
    """The card that the agreement is charged to, if it is the one with that token."""
    rows = system.sql(
        "SELECT card_id FROM registry.agreement_cards JOIN registry.card_tokens USING (card_id)"
        " WHERE agreement_id = %s AND token = %s",
        agreement_id,
        token,
    )
    return rows[0]["card_id"] if rows else None


def spooled(system: System) -> list[str]:
    """The names of the segments that wait on disk."""
    return [path.name for path in (Path(system.settings["CARDSYNC_DATA_DIR"]) / "spool").glob("*.segment")]


def until_settled(system: System, strangers: Sequence[str]) -> None:
    """Wait until no hint is left to be processed, and each of the strangers that are known was looked at."""
    unseen = "cardsync.customers WHERE reconciled_at IS NULL AND customer_id = ANY(%s)"

    def is_settled() -> bool:
        return count(system, "cardsync.events WHERE status = 'pending'") + count(system, unseen, list(strangers)) == 0

    until(is_settled, "the flood is settled", seconds=SECONDS)


def until_swept(system: System) -> None:
    """Wait until two more sweeps are over, so that one of them began after this."""

    def swept_at() -> float:
        (row,) = system.sql("SELECT coalesce(extract(epoch FROM swept_at), 0)::float8 AS at FROM cardsync.gate")
        return float(row["at"])

    def is_later(before: float) -> bool:
        return swept_at() > before

    for _ in range(2):
        before = swept_at()
        until(partial(is_later, before), "the sweep goes on", seconds=SECONDS)
