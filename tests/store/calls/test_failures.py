"""What a failed call means: what other customers' lists met lately says whether a refusal is everybody's."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from sqlalchemy import Connection, Engine, text

from cardsync.core.trouble import TABLE, Kind, Trouble
from cardsync.errors import CredentialsRefused
from cardsync.store.calls import failures, gate
from tests.factories import CustomerFactory
from tests.store.rows import beside, change, wait_until_blocked


def list_ended(engine: Engine, number: int, outcome: str, *, seconds_ago: float) -> None:
    change(
        engine,
        "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome)"
        " VALUES (:number, :customer, 'hint', clock_timestamp() - make_interval(secs => :ago), :outcome)",
        number=number,
        customer=CustomerFactory().id,
        ago=seconds_ago,
        outcome=outcome,
    )


@pytest.mark.parametrize(
    ("seconds_ago", "scope"),
    [(5.0, "customer"), (failures.LISTS_WORK_SECONDS + 60, "everybody")],
    ids=["now", "before"],
)
def test_a_refusal_is_one_customers_trouble_while_lists_work(engine: Engine, seconds_ago: float, scope: str) -> None:
    list_ended(engine, 1, "unchanged", seconds_ago=seconds_ago)
    with engine.begin() as connection:
        ended = failures.told(connection, CredentialsRefused("401"), call="list", who=CustomerFactory().id)
    assert ended.trouble.scope == scope
    with engine.connect() as connection:
        assert (gate.state(connection).reason == "credentials") == (scope == "everybody")


def test_refusals_of_one_moment_are_judged_one_after_the_other(engine: Engine) -> None:
    list_ended(engine, 1, "unchanged", seconds_ago=10)
    list_ended(engine, 2, "CredentialsRefused", seconds_ago=5)
    second, third = CustomerFactory().id, CustomerFactory().id

    def refuse(connection: Connection, who: int) -> Trouble:
        return failures.trouble_of(connection, CredentialsRefused("401"), call="list", who=who)

    with ExitStack() as stack:
        with engine.begin() as connection:
            assert refuse(connection, second).scope == "customer"
            ended = stack.enter_context(beside(engine, lambda beside_it: refuse(beside_it, third)))
            wait_until_blocked(engine)
            connection.execute(
                text(
                    "INSERT INTO cardsync.observations (observation_no, customer, lane, asked_at, outcome)"
                    " VALUES (3, :customer, 'hint', clock_timestamp(), 'CredentialsRefused')"
                ),
                {"customer": second},
            )
        assert ended().scope == "everybody"


def test_a_list_that_works_takes_the_doubt_from_our_credentials(engine: Engine) -> None:
    def doubted() -> bool:
        with engine.connect() as connection:
            return failures.credentials_doubted(connection)

    assert not doubted()
    list_ended(engine, 1, "changed", seconds_ago=failures.LISTS_WORK_SECONDS + 60)
    list_ended(engine, 2, "CredentialsRefused", seconds_ago=20)
    list_ended(engine, 3, "OttuFault", seconds_ago=10)
    assert doubted()
    list_ended(engine, 4, "unchanged", seconds_ago=5)
    assert not doubted()
    list_ended(engine, 5, "CredentialsRefused", seconds_ago=0)
    assert not doubted()  # while a list worked within the minute, a refusal is one customer's own


def test_a_customer_that_was_found_to_be_refused_alone_is_no_witness_of_our_credentials(engine: Engine) -> None:
    noted = CustomerFactory(failures=1, last_error="CredentialsRefused: x" + TABLE["refused_alone"].note).id
    met: tuple[tuple[int, Kind], ...] = ((noted, "refused_alone"), (CustomerFactory().id, "credentials"))
    for who, kind in met:
        with engine.begin() as connection:
            ended = failures.told(connection, CredentialsRefused("403"), call="list", who=who)
        assert ended.trouble is TABLE[kind]
        with engine.connect() as connection:
            assert gate.state(connection).reason == (None if kind == "refused_alone" else "credentials")
