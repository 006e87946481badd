"""What the server does about clients that vanish is set in each session, and verified where its system can do it."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from cardsync import db
from cardsync.db import session
from cardsync.db.session import SERVER_KEEPALIVES, UnusableServer

SHOWN = {**SERVER_KEEPALIVES, "client_connection_check_interval": "10s"}


def shown(url: str) -> dict[str, str]:
    engine = db.make_engine(url)
    try:
        with engine.connect() as connection:
            ask = text("SELECT current_setting(:name)")
            return {name: connection.execute(ask, {"name": name}).scalar_one() for name in SERVER_KEEPALIVES}
    finally:
        engine.dispose()


def test_over_tcp_a_session_has_all_of_them(database_url: str) -> None:
    assert shown(database_url) == SHOWN


@pytest.mark.parametrize("name", SERVER_KEEPALIVES)
def test_a_session_over_tcp_without_one_of_them_is_refused_in_one_line(
    database_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = session.Sessions(lambda: database_url, name="keepalives", settings={"statement_timeout": "5000"})
    given = sessions._options(None)
    monkeypatch.setattr(sessions, "_options", lambda _: given.replace(f"-c {name}={SERVER_KEEPALIVES[name]}", ""))
    if name == "tcp_user_timeout":  # the kernel's own is 0, which a system that cannot do it shows too
        sessions.open().close()
        return
    with pytest.raises(UnusableServer, match=f"does not have {name} as") as caught:
        sessions.open()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in SERVER_KEEPALIVES if name.startswith("tcp_")])
def test_what_a_server_shows_over_a_socket_is_no_lack(name: str) -> None:
    assert session._holds(name, "0", SERVER_KEEPALIVES[name], False)


@pytest.mark.parametrize(("has", "holds"), [("0", False), ("5s", True), ("10s", True)])
def test_behind_a_pooler_any_bound_on_a_vanished_client_will_do(has: str, holds: bool) -> None:
    name = "client_connection_check_interval"
    assert session._holds(name, has, SERVER_KEEPALIVES[name], True) is holds
