"""libpq's whole form of an address is read, and what would cut a password in two is refused without a word of it."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import certifi
import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from cardsync import db, settings
from cardsync.db import tls
from cardsync.db.address import Address
from cardsync.dev.servers.postgres import EmbeddedPostgres
from cardsync.errors import Misconfigured
from tests.tls import Authority, TlsServer

FAKE = "fake-pass"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's says how libpq connects."""
    for name in [name for name in os.environ if name.startswith(("PG", "SSL_CERT_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_every_usual_scheme_is_read(scheme: str) -> None:
    found = Address.read(f"{scheme}://app:{FAKE}@db.internal:5433/cards?sslmode=require").parameters
    assert found == {
        "user": "app",
        "password": FAKE,
        "host": "db.internal",
        "port": "5433",
        "dbname": "cards",
        "sslmode": "require",
    }


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("postgresql://app@h1:5432,h2:5433/cards?target_session_attrs=read-write", "h1,h2", "5432,5433"),
        ("postgresql://app@[2001:db8::1]:5433/cards", "2001:db8::1", "5433"),
        ("postgresql://app@%2Fvar%2Frun%2Fpostgresql/cards", "/var/run/postgresql", None),
        ("postgresql:///cards?host=/var/run/postgresql&port=5433&user=app", "/var/run/postgresql", "5433"),
    ],
)
def test_several_hosts_addresses_in_brackets_and_sockets_are_read(address: str, host: str, port: str | None) -> None:
    found = Address.read(address)
    assert (found.parameters["host"], found.parameters.get("port"), found.parameters["dbname"]) == (host, port, "cards")
    assert (found.url.username, found.url.database) == ("app", "cards")


@pytest.mark.parametrize(
    ("left", "right"), list(itertools.product(["", "p", "1", "p?", "p#"], ["", "q", "q?x=", "q:2"]))
)
@pytest.mark.parametrize("sign", ["@", "/"])
def test_a_sign_that_must_be_encoded_is_refused_or_read_whole_and_never_shown(left: str, sign: str, right: str) -> None:
    password = f"{left}{sign}{right}"
    address = f"postgresql://app:{password}@db.internal/cards"
    if (why := refusal(address)) is None:  # libpq itself reads it as it is meant
        found = Address.read(address).parameters
        assert (found["password"], found["host"]) == (password, "db.internal")
    else:
        assert "percent-encoded" in why
        assert "app" not in why


def refusal(address: str) -> str | None:
    try:
        Address.read(address)
    except Misconfigured as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "address", ["mysql://app@h/d", "postgresql://app@h:x/d", "postgresql://app@h/d?nonsense=1", ""]
)
def test_what_is_no_address_of_postgresql_is_refused(address: str) -> None:
    with pytest.raises(Misconfigured, match="CARDSYNC_DATABASE_URL is wrong"):
        Address.read(address)


def test_the_first_host_that_takes_writes_is_used(postgres: EmbeddedPostgres, database_url: str) -> None:
    parts = psycopg.conninfo.conninfo_to_dict(database_url)
    several = (
        f"postgresql://{parts['user']}:{parts['password']}@127.0.0.1:1,{parts['host']}:{parts['port']}"
        f"/{parts['dbname']}?target_session_attrs=read-write&connect_timeout=60"
    )
    engine = db.make_engine(several)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT current_database()")).scalar_one() == parts["dbname"]
    engine.dispose()


def test_what_the_address_says_of_time_outs_counts(database_url: str) -> None:
    engine = db.make_engine(f"{database_url}?connect_timeout=7&keepalives_idle=33")
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        said = driver.info.get_parameters()
    assert (said["connect_timeout"], said["keepalives_idle"], said["keepalives_interval"]) == ("7", "33", "3")
    engine.dispose()


def test_a_password_in_a_file_is_read_again_at_each_connection(
    postgres: EmbeddedPostgres, database_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "address"
    file.write_text(database_url.replace("://", "://wrong_"), encoding="utf-8")
    given = settings.load("database", environ={"CARDSYNC_DATABASE_URL_FILE": str(file)}, cwd=tmp_path)
    engine = db.make_engine(given.database())
    with pytest.raises(OperationalError):
        engine.connect()
    file.write_text(database_url, encoding="utf-8")  # as a platform replaces a secret under a running process
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar_one() == 1
    engine.dispose()


NEAR = (
    "localhost", "127.0.0.1", "[::1]", "%2Fvar%2Frun%2Fpostgresql", "", "postgres", "db", "db.local", "db.internal",
    "db.internal.", "postgres.cards.svc", "postgres.cards.svc.cluster.local", "10.1.2.3", "172.31.0.1", "192.168.1.1",
    "169.254.0.9", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "10.0.0.1,db",
)  # fmt: skip
ELSEWHERE = (
    "db.example.com", "DB.EXAMPLE.COM.", "db.internal.example.com", "mylocal.example", "8.8.8.8", "172.32.0.1", "[2001:db8::1]",
    "[::ffff:8.8.8.8]", "localhost,db.example.com",
)  # fmt: skip


def said_of_tls(address: str) -> tuple[str | None, str | None]:
    found = Address.read(address).parameters
    return found.get("sslmode"), found.get("sslrootcert")


@pytest.mark.parametrize("hosts", NEAR)
def test_a_server_that_is_near_is_spoken_to_as_before(hosts: str) -> None:
    assert said_of_tls(f"postgresql://app@{hosts}/cards") == (None, None)


@pytest.mark.parametrize("hosts", ELSEWHERE)
def test_a_server_elsewhere_is_verified_by_default(hosts: str) -> None:
    assert said_of_tls(f"postgresql://app@{hosts}/cards") == ("verify-full", certifi.where())
    for one in Address.read(f"postgresql://app@{hosts}/cards").hosts():
        assert (one.parameters["sslmode"], one.is_verified_by_default) == ("verify-full", True)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("host=db.example.com&hostaddr=10.0.0.1", None),  # a tunnel, or a name that is not to be resolved
        ("host=postgres&hostaddr=8.8.8.8", "verify-full"),
        ("host=a.example.com,postgres&hostaddr=10.0.0.1,8.8.8.8", "verify-full"),
        ("host=a.example.com,postgres&hostaddr=10.0.0.1,", None),
    ],
)
def test_where_an_address_leads_decides_and_not_its_name(query: str, expected: str | None) -> None:
    assert said_of_tls(f"postgresql:///cards?{query}")[0] == expected


@pytest.mark.parametrize("mode", ["disable", "prefer", "require", "verify-ca"])
def test_what_is_said_of_tls_stays_as_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str) -> None:
    assert said_of_tls(f"postgresql://app@db.example.com/cards?sslmode={mode}") == (mode, None)
    file = tmp_path / "services"
    file.write_text(f"[other]\nhost=10.0.0.1\n\n[cards]\n# ours\nhost=db.example.com\nsslmode={mode}\n")
    for name, value in {"PGSERVICEFILE": str(file), "PGSERVICE": "cards"}.items():
        monkeypatch.setenv(name, value)
    assert said_of_tls("postgresql:///cards") == (None, None)
    file.write_text(file.read_text().replace("sslmode=", "#"))
    assert said_of_tls("postgresql:///cards?service=cards")[0] == "verify-full"
    assert said_of_tls("postgresql:///cards?service=other") == (None, None)
    monkeypatch.setenv("PGSSLMODE", mode)
    assert said_of_tls("postgresql:///cards") == (None, None)


def test_the_authorities_are_those_that_somebody_named_or_ottus(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    address = "postgresql://app@db.example.com/cards"
    assert said_of_tls(f"{address}?sslrootcert=/etc/ca.pem") == ("verify-full", "/etc/ca.pem")
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "/etc/ssl/some")
            assert said_of_tls(address) == ("verify-full", "system")
    with monkeypatch.context() as patch:
        patch.setenv("PGSSLROOTCERT", "/etc/ca.pem")
        assert said_of_tls(address) == ("verify-full", None)
    (tmp_path / ".postgresql").mkdir()
    (tmp_path / ".postgresql" / "root.crt").touch()
    assert said_of_tls(address) == ("verify-full", None)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


class TestServersElsewhere:
    """A real server behind TLS, which this machine's networks do not count as near."""

    @pytest.fixture(autouse=True)
    def nothing_is_near(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tls, "_NEAR_NETWORKS", ())

    def test_one_that_no_authority_vouches_for_gets_no_password_and_the_error_says_what_to_do(
        self, database_url: str, authority: Authority
    ) -> None:
        server = TlsServer(place_of(database_url), authority.certificate("127.0.0.1"), for_postgres=True)
        with server.run() as port:
            assert "no authority that is known here vouches for it" in told(at(database_url, port))
            assert server.heard == b""
            assert talks(at(database_url, port) + "?sslmode=require")  # who says so gets no more than that

    def test_one_that_an_authority_vouches_for_is_used(
        self, database_url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = TlsServer(place_of(database_url), authority.certificate("127.0.0.1"), for_postgres=True)
        with server.run() as port:
            assert talks(f"{at(database_url, port)}?sslrootcert={authority.file}")
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
            assert talks(at(database_url, port))
        assert server.heard != b""

    def test_one_for_another_host_or_without_tls_is_refused(self, database_url: str, authority: Authority) -> None:
        server = TlsServer(place_of(database_url), authority.certificate("127.0.0.9"), for_postgres=True)
        with server.run() as port:
            assert "it is for another host" in told(f"{at(database_url, port)}?sslrootcert={authority.file}")
        assert server.heard == b""
        assert "the server speaks no TLS" in told(database_url)


def place_of(database_url: str) -> tuple[str, int]:
    url = make_url(database_url)
    return str(url.host), int(url.port or 0)


def at(database_url: str, port: int) -> str:
    return make_url(database_url).set(port=port).render_as_string(hide_password=False)


def talks(address: str) -> bool:
    engine = db.make_engine(address, pool_size=1)
    try:
        with engine.connect() as connection:
            return connection.execute(text("SELECT 1")).scalar_one() == 1
    finally:
        engine.dispose()


def told(address: str) -> str:
    """What an operator hears of an address that leads to no session: one line without host, user and password."""
    with pytest.raises(OperationalError) as caught:
        talks(address)
    said = db.unusable(caught.value)
    assert said is not None
    assert said == db.why(caught.value)
    assert "name its authority's file by sslrootcert, or state an sslmode" in said
    assert not any(part in said for part in ("\n", "127.0.0.1", str(make_url(address).password)))
    return said
