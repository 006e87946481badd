"""The way to the broker: how its address is used, and whether it answers us.

Rules: over TLS (``amqps``, ``rediss``, ``sentinels``) the broker's certificate is verified, name included, unless the address
itself says ``ssl_cert_reqs=none``: kombu's own default verifies nothing for these, and hands the password to an impostor. The
authorities are those of ``CARDSYNC_BROKER_CA_FILE`` or the address's ``ssl_ca_certs``, else the system's. ``ask`` does all that a
worker does before its first message: connect, TLS, sign in, choose the virtual host or database. No error of ours repeats the
address. Every key in Redis begins with ``cardsync``, those of kombu too: others may use the same database.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from cardsync.errors import Misconfigured
from cardsync.reachability import CLOSED, NO_ANSWER, why_unreachable
from cardsync.sentinels import SENTINEL_SCHEMES, Sentinels
from cardsync.settings import Settings

TLS_SCHEMES: Final = ("amqps", "rediss", "sentinels")
AMQP_SCHEMES: Final = ("amqp", "amqps")
CLUSTER: Final = "it is a Redis Cluster, which cardsync cannot use: take one server, or a primary with replicas"
NO_MASTER: Final = "no sentinel that can be reached names a running master of that name"
START_SECONDS: Final = 1.0  # for each step of signing in, at a process's start
SENTINEL_SECONDS: Final = 1.0  # for a sentinel to answer; then the next one is asked
# Where kombu notes in Redis which messages are being worked on. Its own names have no prefix, and any other program that uses
# kombu would share them. Rejected: ``global_keyprefix``. It would rename the queues, which older processes beside these use, and
# kombu forgets it in some commands (EXISTS, LTRIM).
_REDIS_KEYS: Final = {
    "unacked_key": "cardsync.unacked",
    "unacked_index_key": "cardsync.unacked_index",
    "unacked_mutex_key": "cardsync.unacked_mutex",
}
_VERIFY: Final = {
    "required": ssl.CERT_REQUIRED,
    "CERT_REQUIRED": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "CERT_OPTIONAL": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
    "CERT_NONE": ssl.CERT_NONE,
}


class BrokerUnusable(Exception):
    """The broker cannot be used; the text says why, without the address."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """What Celery and kombu are given: one address or several joined by ``;``, and the TLS options, ``None`` without TLS.

    ``options`` are what the transport must know in any case; ``sentinels`` are there if the addresses are theirs.
    """

    url: str
    tls: dict[str, Any] | None
    is_amqp: bool
    sentinels: Sentinels | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> BrokerAddress:
        """Take the address from the settings, read again if a file holds it.

        Raises ``Misconfigured`` for what cannot be used: a file, a TLS option.
        """
        addresses = settings.broker().split(";")
        schemes = {urlsplit(address).scheme for address in addresses}
        if len(schemes) > 1:
            raise Misconfigured("CARDSYNC_BROKER_URL is wrong: all of its addresses must begin with the same scheme")
        scheme = schemes.pop()
        sentinels = _sentinels(addresses) if scheme in SENTINEL_SCHEMES else None
        plain, options = zip(*(_without_tls_options(address) for address in addresses), strict=True)
        if sentinels is not None:  # what one of their addresses says holds for all
            plain, options = tuple(sentinels.url.split(";")), tuple(one for one in options if one) or ({},)
        if any(other != options[0] for other in options):
            raise Misconfigured("CARDSYNC_BROKER_URL is wrong: all of its addresses must have the same ssl_ options")
        chosen = dict(options[0])
        if settings.broker_ca_file is not None:
            chosen["ssl_ca_certs"] = str(settings.broker_ca_file)
        if scheme not in TLS_SCHEMES:
            if chosen:
                raise Misconfigured(
                    "CARDSYNC_BROKER_URL has no TLS: with a CA file it must be amqps://, rediss:// or sentinels://"
                )
            return cls(";".join(plain), None, scheme in AMQP_SCHEMES, sentinels, _options(scheme, sentinels, None))
        _require_readable(chosen)
        hosts = [urlsplit(address).hostname for address in plain]
        tls = _for_amqp(chosen, hosts) if scheme == "amqps" else _for_redis(chosen)
        return cls(";".join(plain), tls, scheme == "amqps", sentinels, _options(scheme, sentinels, tls))

    @property
    def alone(self) -> list[str]:
        """What can be tried by itself: each address of a broker, but all sentinels together, which know the same master."""
        return [self.url] if self.sentinels is not None else self.url.split(";")

    @property
    def is_verified(self) -> bool:
        """Whether the broker's certificate is verified; also true without TLS, where there is none."""
        return self.tls is None or ssl.CERT_NONE not in (self.tls.get("cert_reqs"), self.tls.get("ssl_cert_reqs"))


def _sentinels(addresses: list[str]) -> Sentinels:
    try:
        return Sentinels.read(addresses)
    except ValueError as error:
        raise Misconfigured(f"CARDSYNC_BROKER_URL is wrong: {error}") from None


def _options(scheme: str, sentinels: Sentinels | None, tls: dict[str, Any] | None) -> dict[str, Any]:
    """The transport's options that every connection has."""
    if scheme in AMQP_SCHEMES:
        return {}
    return _REDIS_KEYS | ({} if sentinels is None else _for_sentinels(sentinels, tls))


def _for_sentinels(sentinels: Sentinels, tls: dict[str, Any] | None) -> dict[str, Any]:
    """Who the master is, and how the sentinels are asked: each is tried once, since redis-py's own four tries take seconds."""
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    asking: dict[str, Any] = {
        "username": sentinels.username,
        "password": sentinels.password,
        "socket_timeout": SENTINEL_SECONDS,
        "socket_connect_timeout": SENTINEL_SECONDS,
        "retry": Retry(NoBackoff(), 0),
    }
    return {"master_name": sentinels.master, "sentinel_kwargs": asking | ({} if tls is None else {"ssl": True, **tls})}


def _without_tls_options(address: str) -> tuple[str, dict[str, str]]:
    """Take the ``ssl_`` options out: of an address that has any, kombu uses those alone."""
    parts = urlsplit(address)
    given = parse_qsl(parts.query, keep_blank_values=True)
    options = {name: value for name, value in given if name.startswith("ssl_")}
    rest = urlencode([(name, value) for name, value in given if not name.startswith("ssl_")])
    return (urlunsplit(parts._replace(query=rest)) if options else address), options


def _require_readable(options: dict[str, str]) -> None:
    for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        path = options.get(name)
        if path is None:
            continue
        setting = "CARDSYNC_BROKER_CA_FILE" if name == "ssl_ca_certs" else f"CARDSYNC_BROKER_URL: {name}"
        try:
            os.close(os.open(path, os.O_RDONLY))
            if name == "ssl_ca_certs":
                ssl.create_default_context(cafile=path)
        except ssl.SSLError:
            raise Misconfigured(f"{setting} holds no certificate (PEM)") from None
        except (OSError, ValueError) as error:
            raise Misconfigured(f"{setting} cannot be read: {type(error).__name__}") from None


def _verification(options: dict[str, str]) -> ssl.VerifyMode:
    given = options.get("ssl_cert_reqs", "required")
    if given not in _VERIFY:
        raise Misconfigured("CARDSYNC_BROKER_URL is wrong: ssl_cert_reqs must be required, optional or none")
    return _VERIFY[given]


def _for_redis(options: dict[str, str]) -> dict[str, Any]:
    verify = _verification(options)
    named = options.get("ssl_check_hostname", "true").lower() != "false"
    return {**options, "ssl_cert_reqs": verify, "ssl_check_hostname": named and verify != ssl.CERT_NONE}


def _for_amqp(options: dict[str, str], hosts: list[str | None]) -> dict[str, Any]:
    verify = _verification(options)
    named = options.get("ssl_check_hostname", "true").lower() != "false" and verify != ssl.CERT_NONE
    tls: dict[str, Any] = {
        "cert_reqs": verify,
        "ca_certs": options.get("ssl_ca_certs"),
        "certfile": options.get("ssl_certfile"),
        "keyfile": options.get("ssl_keyfile"),
    }
    if named and len(hosts) == 1:
        tls["server_hostname"] = hosts[0]
    elif named:
        return _EachHost(tls, hosts)
    return tls


class _EachHost(dict[str, Any]):
    """TLS options for several hosts. kombu fills in ``server_hostname`` where it reads ``None``, and keeps it for the next
    host: so ``None`` is what it reads each time. It also turns ``localhost`` into an address, which no certificate is for.
    """

    def __init__(self, options: dict[str, Any], hosts: list[str | None]) -> None:
        super().__init__(options, server_hostname=None)
        self._is_localhost = "localhost" in hosts and "127.0.0.1" not in hosts

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "server_hostname" and value == "127.0.0.1" and self._is_localhost:
            value = "localhost"
        super().__setitem__(name, value)

    def __getitem__(self, name: str) -> Any:
        return None if name == "server_hostname" else super().__getitem__(name)


def ask(settings: Settings, *, seconds: float) -> None:
    """Sign in to the broker as a worker does, within about ``seconds`` for each address; one of several is enough.

    Raises ``BrokerUnusable`` with the reason of the first address, or ``Misconfigured``.
    """
    address = BrokerAddress.of(settings)
    refusals = []
    for url in address.alone:
        try:
            _sign_in(url, address, seconds)
        except Exception as error:  # noqa: BLE001  (brokers' clients raise many kinds; their texts may hold the password)
            refusals.append(_why(error, speaks_tls=address.tls is not None))
        else:
            return
    raise BrokerUnusable(refusals[0])


def _sign_in(url: str, address: BrokerAddress, seconds: float) -> None:
    from kombu.connection import Connection

    bounds = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
    if address.is_amqp:
        options: dict[str, Any] = {"read_timeout": seconds, "write_timeout": seconds}
    else:
        options = address.options | bounds | {"max_retries": 0}
    if address.sentinels is not None:
        options["sentinel_kwargs"] = options["sentinel_kwargs"] | bounds
    with Connection(  # type: ignore[no-untyped-call]
        url, ssl=address.tls or False, connect_timeout=seconds, transport_options=options
    ) as connection:
        # One try: `connect` would wait two seconds and try again, for a caller that has half a second.
        connection.ensure_connection(max_retries=0, reraise_as_library_errors=False)
        with connection.channel() as channel:  # of Redis: signs in, chooses the database, and asks PING
            if not address.is_amqp and _is_cluster(channel):
                raise _IsCluster


def refuse_cluster(settings: Settings) -> None:
    """Raise ``Misconfigured`` if a Redis Cluster answers: its keys are spread, and no message would ever arrive."""
    try:
        ask(settings, seconds=START_SECONDS)
    except BrokerUnusable as error:
        if str(error) == CLUSTER:
            raise Misconfigured(f"CARDSYNC_BROKER_URL is wrong: {CLUSTER}") from None


class _IsCluster(Exception):
    """A Redis Cluster."""


def _is_cluster(channel: Any) -> bool:
    try:
        return bool(channel.client.info("cluster").get("cluster_enabled"))
    except Exception:  # noqa: BLE001  (a user may not ask)
        return False


def why(error: BaseException) -> str:
    """What a broker's client means, in words of ours: its own text may hold the password."""
    return why_unreachable(error) or _why_refused(error)


def _why(error: BaseException, *, speaks_tls: bool) -> str:
    if isinstance(error, _IsCluster):
        return CLUSTER
    reason = why(error)
    if reason in (NO_ANSWER, CLOSED):  # what TLS against none looks like, either way round
        return f"{reason}; does it speak TLS on that port?" if speaks_tls else f"{reason}; does it expect TLS?"
    return reason


def _why_refused(error: BaseException) -> str:
    seen, said = error, ""
    while seen is not None:
        said += f" {type(seen).__name__} {seen}"
        seen = seen.__cause__ or seen.__context__  # type: ignore[assignment]
    for signs, words in _SIGNS:
        if any(sign in said for sign in signs):
            return words
    return f"it does not answer as a broker does ({type(error).__name__})"


# Of AMQP's reply codes and Redis's words; no text of theirs is shown.
_SIGNS: Final = (
    (("ACCESS_REFUSED", "AccessRefused", "(403)"), "it refuses the user name or password"),
    (("WRONGPASS", "invalid username-password", "invalid password"), "it refuses the user name or password"),
    (("NOAUTH", "Authentication required", "AuthenticationError"), "it refuses the user name or password"),
    (("NOT_ALLOWED", "NotAllowed", "(530)"), "there is no such virtual host, or this user may not use it"),
    (("DB index is out of range", "Database is int", "Database must be int"), "there is no such database"),
    (("MasterNotFoundError",), NO_MASTER),
    (("NOPERM",), "this user may not do what is needed"),
    (("LOADING", "MASTERDOWN"), "it is loading, or has no master"),
    (
        ("closed the connection", "closed connection", "Connection closed"),
        "it closed the connection; does it expect TLS?",
    ),
)
