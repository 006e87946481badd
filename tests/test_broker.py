"""The broker is signed in to as a worker does it, over TLS that is verified, and each way to fail has its own words."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import Engine

from cardsync import broker
from cardsync.dev.servers.ports import free_port
from cardsync.dev.servers.valkey import EmbeddedValkey
from cardsync.errors import Misconfigured
from cardsync.settings import Settings, load
from cardsync.store.ops.deployment import deployment_name
from tests.sentinels import DOWN_MILLISECONDS, MASTER, Replicated, Sentinel, replicated
from tests.tls import Authority, TlsServer
from workers import app as worker_app
from workers import broker_channel, redis_transport, roll_call
from workers.app import create_app

SECONDS = 60.0  # a deadline: only a bug takes so long
NO_ANSWER_SECONDS = 3.0  # where none is expected: a server that speaks no TLS waits for the end of a line


@pytest.fixture(autouse=True)
def _patient_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a deployment a publisher gives up after a second; here what can be reached is reached."""
    monkeypatch.setattr(worker_app, "PUBLISH_SECONDS", SECONDS)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def sentinels(services: Path) -> Iterator[Replicated]:
    # No master is followed by another: one that stands still for a second, on a busy machine, is still the master.
    with replicated(services / "sentinels", down_milliseconds=3_600 * DOWN_MILLISECONDS) as made:
        yield made


def settings(url: str, ca_file: Path | None = None) -> Settings:
    return Settings.model_validate({"broker_url": url, "broker_ca_file": ca_file})


def refusal(url: str, ca_file: Path | None = None, *, seconds: float = SECONDS) -> str:
    with pytest.raises(broker.BrokerUnusable) as caught:
        broker.ask(settings(url, ca_file), seconds=seconds)
    assert "fake-password" not in str(caught.value)
    return str(caught.value)


@contextlib.contextmanager
def tls(target: str, certificate: tuple[Path, Path]) -> Iterator[tuple[int, bytearray]]:
    parts = urlsplit(target)
    server = TlsServer((parts.hostname or "127.0.0.1", parts.port or 5672), certificate)
    with server.run() as port:
        yield port, server.heard


def password_of(url: str) -> str:
    return urlsplit(url).password or ""


def test_a_broker_that_answers_is_taken_one_of_several_is_enough(valkey: EmbeddedValkey) -> None:
    broker.ask(settings(valkey.url), seconds=SECONDS)
    broker.ask(settings(f"redis://127.0.0.1:{free_port()}/0;{valkey.url}"), seconds=SECONDS)


def test_rabbitmq_too(rabbitmq_url: str) -> None:
    broker.ask(settings(rabbitmq_url), seconds=SECONDS)


def test_each_way_of_redis_to_fail_has_words_of_its_own(valkey: EmbeddedValkey) -> None:
    port = urlsplit(valkey.url).port
    assert "nothing listens" in refusal(f"redis://:fake-password@127.0.0.1:{free_port()}/0")
    assert "(DNS)" in refusal("redis://:fake-password@no-such-host.invalid/0")
    assert "user name or password" in refusal(f"redis://:fake-password@127.0.0.1:{port}/0")
    assert "user name or password" in refusal(f"redis://127.0.0.1:{port}/0")
    assert refusal(f"{valkey.url.rpartition('/')[0]}/4000") == "there is no such database"
    assert "speak TLS" in refusal(f"rediss://:fake-password@127.0.0.1:{port}/0", seconds=NO_ANSWER_SECONDS)


def test_each_way_of_rabbitmq_to_fail_has_words_of_its_own(rabbitmq_url: str) -> None:
    parts = urlsplit(rabbitmq_url)
    at = f"{parts.hostname}:{parts.port or 5672}"
    assert "user name or password" in refusal(f"amqp://guest:fake-password@{at}//")
    assert "no such virtual host" in refusal(f"amqp://{parts.username}:{parts.password}@{at}/no-such-vhost")
    assert "nothing listens" in refusal(f"amqp://guest:fake-password@127.0.0.1:{free_port()}//")
    assert "speak TLS" in refusal(f"amqps://guest:fake-password@{at}//", seconds=NO_ANSWER_SECONDS)


def test_sentinels_lead_to_the_master_and_each_way_to_fail_has_words_of_its_own(sentinels: Replicated) -> None:
    broker.ask(settings(sentinels.url), seconds=SECONDS)
    password, own = sentinels.secrets
    assert refusal(sentinels.url.replace(f"master={MASTER}", "master=nobody")) == (broker.NO_MASTER)
    assert "user name or password" in refusal(sentinels.url.replace(password, "fake-password"))
    assert "user name or password" in refusal(sentinels.url.replace(own, "fake-password"))
    assert "no such database" in refusal(sentinels.url.replace("/2?", "/4000?"))
    nobody = f"sentinel://127.0.0.1:{free_port()}?master={MASTER}&sentinel_password=fake-password"
    assert refusal(nobody) == broker.NO_MASTER


def test_sentinels_and_master_are_reached_over_tls_alone_where_the_address_says_so(
    services: Path, valkey: EmbeddedValkey, authority: Authority
) -> None:
    good, other = authority.certificate("127.0.0.1"), authority.certificate("elsewhere.example")
    with tls(valkey.url, good) as (master_port, of_master), tls(valkey.url, other) as (impostor_port, of_impostor):
        for port, is_good in ((master_port, True), (impostor_port, False)):
            # It speaks no TLS itself, and so never reaches the master that it names. That must not matter to it.
            patient = 3_600 * DOWN_MILLISECONDS
            sentinel = Sentinel(services / f"sentinel-{port}", port, valkey.password, down_milliseconds=patient)
            sentinel.start()
            options = f"?master={MASTER}&sentinel_password={sentinel.password}"
            try:
                with tls(sentinel.url, good) as (at, heard):
                    url = f"sentinels://:{valkey.password}@127.0.0.1:{at}{options}"
                    if is_good:
                        broker.ask(settings(url, authority.file), seconds=SECONDS)
                        assert b"SENTINEL" in heard
                    else:
                        assert "another host name" in refusal(url, authority.file)
                with tls(sentinel.url, other) as (at, heard):
                    url = f"sentinels://:{valkey.password}@127.0.0.1:{at}{options}"
                    assert refusal(url, authority.file) == broker.NO_MASTER
                    assert heard == b""
            finally:
                sentinel.remove()
        assert valkey.password.encode() in of_master
        assert of_impostor == b""


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sentinel://h", r"needs the name of the master: \?master=NAME"),
        ("sentinel://h/0?master=", r"needs the name of the master: \?master=NAME"),
        ("sentinel://h?master=m;i.example/0", "must begin with the same scheme"),
        ("sentinel://h/cards?master=m", "the number of a database"),
        ("sentinel://h/1?master=m;sentinel://i/2", "must not differ in number of the database"),
        ("sentinel://:fake-password@h?master=m;sentinel://:fake-passwore@i", "must not differ in user and password"),
        ("sentinel://h?master=m;sentinel://i?master=n", "must not differ in master"),
        ("sentinel://h?master=m&masters=n", "takes master, sentinel_username, sentinel_password"),
        ("sentinel://:fake-password@/0?master=m", "needs a host"),
    ],
)
def test_addresses_of_sentinels_that_cannot_be_used_are_a_wrong_setting(tmp_path: Path, url: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says) as caught:
        load("broker", environ={"CARDSYNC_BROKER_URL": url}, cwd=tmp_path)
    assert str(caught.value).startswith("CARDSYNC_BROKER_URL is wrong: ")
    assert "fake-pass" not in str(caught.value)


def test_what_one_address_of_a_sentinel_says_holds_for_all() -> None:
    given = "sentinel://h;sentinel://me:a%40b@[::1]:27000;sentinel://third.example:1/3?master=m"
    address = broker.BrokerAddress.of(settings(given))
    user = "me:a%40b"
    assert address.url == (
        f"sentinel://{user}@h:26379/3;sentinel://{user}@[::1]:27000/3;sentinel://{user}@third.example:1/3"
    )
    assert address.options["master_name"] == "m"


def test_a_connection_that_goes_on_to_another_address_keeps_the_bounds_of_its_queues(valkey: EmbeddedValkey) -> None:
    url = f"redis://127.0.0.1:{free_port()}/0;{valkey.url}"
    with create_app(settings(url), "0123456789", publisher=True).connection_for_write() as connection:
        connection.ensure_connection(max_retries=2)
        assert isinstance(connection.default_channel, redis_transport.Channel)


def test_a_port_that_is_merely_open_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        for scheme in ("amqp", "redis"):
            with pytest.raises(broker.BrokerUnusable, match="in time"):
                broker.ask(settings(f"{scheme}://127.0.0.1:{port}/0"), seconds=0.5)


def test_without_any_parameter_a_certificate_that_is_not_vouched_for_ends_the_connection(
    valkey: EmbeddedValkey, rabbitmq_url: str, authority: Authority
) -> None:
    for target, scheme in ((valkey.url, "rediss"), (rabbitmq_url, "amqps")):
        with tls(target, authority.certificate("127.0.0.1")) as (port, heard):
            url = f"{scheme}://guest:fake-password@127.0.0.1:{port}/0"
            assert "(CA) that is not known" in refusal(url)
            app = create_app(settings(url), "0123456789", publisher=True)
            with pytest.raises(Exception), app.connection_for_write() as connection:  # noqa: B017  (the client's own kinds)
                connection.ensure_connection(max_retries=1, timeout=NO_ANSWER_SECONDS)
            assert heard == b""  # no password, nor anything else, was sent


def test_a_certificate_for_another_name_is_refused_whatever_authority_made_it(
    valkey: EmbeddedValkey, rabbitmq_url: str, authority: Authority
) -> None:
    for target, scheme in ((valkey.url, "rediss"), (rabbitmq_url, "amqps")):
        with tls(target, authority.certificate("elsewhere.example")) as (port, heard):
            url = f"{scheme}://guest:fake-password@127.0.0.1:{port}/0"
            assert "another host name" in refusal(url, authority.file)
            assert heard == b""


def test_with_its_authority_the_broker_is_used_over_tls(
    valkey: EmbeddedValkey, rabbitmq_url: str, authority: Authority
) -> None:
    for target, scheme, path in (
        (valkey.url, "rediss", "/0"),
        (rabbitmq_url, "amqps", urlsplit(rabbitmq_url).path),
    ):
        user = urlsplit(target).username or ""
        for host in ("127.0.0.1", "localhost"):
            with tls(target, authority.certificate(host)) as (port, heard):
                url = f"{scheme}://{user}:{password_of(target)}@{host}:{port}{path}"
                broker.ask(settings(url, authority.file), seconds=SECONDS)
                broker.ask(settings(f"{url};{url}", authority.file), seconds=SECONDS)
                app = create_app(settings(url, authority.file), "0123456789", publisher=True)
                with app.connection_for_write() as connection:
                    connection.ensure_connection(max_retries=1, timeout=SECONDS)
                assert heard != b""


def test_plain_text_against_tls_says_so(valkey: EmbeddedValkey, authority: Authority) -> None:
    with tls(valkey.url, authority.certificate("127.0.0.1")) as (port, _):
        for scheme in ("redis", "amqp"):
            assert "does it expect TLS?" in refusal(f"{scheme}://:fake-password@127.0.0.1:{port}/0")


def test_only_the_address_itself_turns_verification_off(valkey: EmbeddedValkey, authority: Authority) -> None:
    with tls(valkey.url, authority.certificate("elsewhere.example")) as (port, _):
        url = f"rediss://:{password_of(valkey.url)}@127.0.0.1:{port}/0?ssl_cert_reqs=none"
        broker.ask(settings(url), seconds=SECONDS)
        assert not broker.BrokerAddress.of(settings(url)).is_verified


@pytest.mark.parametrize(
    ("url", "ca_file", "says"),
    [
        ("rediss://h/0", "/nowhere/ca.pem", "CARDSYNC_BROKER_CA_FILE cannot be read: FileNotFoundError"),
        ("amqps://h//", "/nowhere/ca.pem", "CARDSYNC_BROKER_CA_FILE cannot be read: FileNotFoundError"),
        ("rediss://h/0", "/dev/null", "CARDSYNC_BROKER_CA_FILE holds no certificate"),
        ("rediss://h/0?ssl_ca_certs=/nowhere", None, "cannot be read"),
        ("redis://h/0", "/dev/null", "must be amqps://, rediss:// or sentinels://"),
        ("rediss://h/0?ssl_cert_reqs=perhaps", None, "required, optional or none"),
        ("rediss://h/0;redis://h/0", None, "the same scheme"),
    ],
)
def test_tls_that_cannot_be_had_is_a_wrong_setting(url: str, ca_file: str | None, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        broker.BrokerAddress.of(settings(url, None if ca_file is None else Path(ca_file)))


@pytest.fixture
def roll(rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A roll of this test's own. Workers of tests beside this one would answer in it, and hold its messages while they read."""
    monkeypatch.setattr(roll_call, "QUEUE", f"{roll_call.QUEUE}.{secrets.token_hex(4)}")
    monkeypatch.setattr(broker_channel, "SECONDS", SECONDS)
    yield
    with broker_channel.open_channel(settings(rabbitmq_url)) as channel:
        channel.queue_delete(roll_call.QUEUE)


@pytest.mark.usefixtures("roll")
def test_deployments_have_names_of_their_own_and_the_roll_call_knows_the_others(
    valkey: EmbeddedValkey, rabbitmq_url: str, engine: Engine, worker_engine: Engine, web_engine: Engine
) -> None:
    names = set()
    for one in (engine, worker_engine, web_engine):
        with one.connect() as connection:
            names.add(deployment_name(connection))
    (ours,) = names
    now = dt.datetime.now(dt.UTC)
    valkey.flush()
    for url in (valkey.url, rabbitmq_url):
        roll_call.answer(settings(url), ours, now=now)
        roll_call.answer(settings(url), ours, now=now)
        assert ours not in roll_call.others(settings(url), ours)
        roll_call.answer(settings(url), f"x{ours}", now=now)
        for _ in range(2):  # reading takes nothing away
            assert roll_call.others(settings(url), ours)[f"x{ours}"] == now
        roll_call.answer(settings(url), ours, now=now + 2 * roll_call.FORGET_AFTER)
        assert f"x{ours}" not in roll_call.others(settings(url), ours)
    valkey.flush()
