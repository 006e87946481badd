"""Settings: read once, at a process's start; a wrong or missing one stops the process in one line.

Order of precedence: the environment, ``NAME_FILE`` (a file that holds the value, as container platforms mount
secrets), ``.env`` in the current folder, then what a running ``cardsync dev`` wrote into the data directory.
Secrets are ``SecretStr``: they print as asterisks.
"""

from __future__ import annotations

import datetime as dt
import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from cardsync.ciphers import KeyRing
from cardsync.core.connections import FEWEST
from cardsync.core.webhook_keys import BoundKey
from cardsync.db.address import Place
from cardsync.db.session import ROLE_PREFIX
from cardsync.errors import Misconfigured
from cardsync.sentinels import Sentinels, are_sentinels
from cardsync.setting_sources import file_of, offered_by_dev, read_dotenv, read_file, value_of
from cardsync.urls import (
    BROKER_SCHEMES,
    DATABASE_SCHEMES,
    require_host,
    require_origin,
    require_safe_base,
    require_scheme,
)

Need = Literal["database", "broker", "secret", "webhook", "ottu"]
ConsoleRole = Literal["viewer", "support", "operator", "admin"]

SHORT_KEY: Final = 16  # characters; Ottu makes keys of at least as many
CONSOLE_PORT: Final = 8001

# field of Settings -> environment variable
NAMES: Final[dict[str, str]] = {
    "database_url": "CARDSYNC_DATABASE_URL",
    "database_direct_url": "CARDSYNC_DATABASE_DIRECT_URL",
    "database_connections": "CARDSYNC_DATABASE_CONNECTIONS",
    "role_prefix": "CARDSYNC_ROLE_PREFIX",
    "broker_url": "CARDSYNC_BROKER_URL",
    "broker_ca_file": "CARDSYNC_BROKER_CA_FILE",
    "secret_key": "CARDSYNC_SECRET_KEY",
    "previous_secret_keys": "CARDSYNC_PREVIOUS_SECRET_KEYS",
    "tokens_at_rest": "CARDSYNC_TOKENS_AT_REST",
    "data_dir": "CARDSYNC_DATA_DIR",
    "spool_max_files": "CARDSYNC_SPOOL_MAX_FILES",
    "spool_max_bytes": "CARDSYNC_SPOOL_MAX_BYTES",
    "keep_minutes": "CARDSYNC_KEEP_MINUTES",
    "ack_status": "CARDSYNC_ACK_STATUS",
    "max_body_bytes": "CARDSYNC_MAX_BODY_BYTES",
    "webhook_path": "CARDSYNC_WEBHOOK_PATH",
    "log_format": "CARDSYNC_LOG_FORMAT",
    "log_level": "CARDSYNC_LOG_LEVEL",
    "web_threads": "CARDSYNC_WEB_THREADS",
    "worker_threads": "CARDSYNC_WORKER_THREADS",
    "health_port": "CARDSYNC_HEALTH_PORT",
    "confirm_seconds": "CARDSYNC_CONFIRM_S",
    "look_again_seconds": "CARDSYNC_LOOK_AGAIN_S",
    "removal_brake_share": "CARDSYNC_REMOVAL_BRAKE_SHARE",
    "removal_brake_floor": "CARDSYNC_REMOVAL_BRAKE_FLOOR",
    "deletion_brake_share": "CARDSYNC_DELETION_BRAKE_SHARE",
    "deletion_brake_floor": "CARDSYNC_DELETION_BRAKE_FLOOR",
    "inbox_content_days": "CARDSYNC_INBOX_CONTENT_DAYS",
    "inbox_days": "CARDSYNC_INBOX_DAYS",
    "signature_days": "CARDSYNC_SIGNATURE_DAYS",
    "token_read_days": "CARDSYNC_READ_RECORD_DAYS",
    "console_url": "CARDSYNC_CONSOLE_URL",
    "console_read_only": "CARDSYNC_CONSOLE_READ_ONLY",
    "oidc_issuer": "CARDSYNC_OIDC_ISSUER",
    "oidc_client_id": "CARDSYNC_OIDC_CLIENT_ID",
    "oidc_client_secret": "CARDSYNC_OIDC_CLIENT_SECRET",
    "oidc_roles": "CARDSYNC_OIDC_ROLES",
    "oidc_claim": "CARDSYNC_OIDC_CLAIM",
    "relay_keep_days": "CARDSYNC_RELAY_KEEP_DAYS",
    "time_zone": "CARDSYNC_TIME_ZONE",
    "ottu_merchant_id": "OTTU_MERCHANT_ID",
    "ottu_base_url": "OTTU_BASE_URL",
    "ottu_api_key": "OTTU_API_KEY",
    "ottu_api_key_expires_on": "OTTU_API_KEY_EXPIRES_ON",
    "ottu_username": "OTTU_USERNAME",
    "ottu_password": "OTTU_PASSWORD",
    "ottu_webhook_keys": "OTTU_WEBHOOK_KEYS",
    "ottu_cards_api": "OTTU_CARDS_API",
    "ottu_daily_calls": "OTTU_DAILY_CALLS",
    "ottu_timeout_s": "OTTU_TIMEOUT_S",
}
_MERCHANT_ID_MISSING: Final = "OTTU_MERCHANT_ID is missing (the host of the Ottu instance, like acme.ottu.net)"


class Settings(BaseModel):
    """Everything that can be set; ``NAMES`` maps the attributes to environment variables."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    _files: dict[str, Path] = PrivateAttr(
        default_factory=dict
    )  # values read from files that may be replaced: field -> file

    database_url: SecretStr | None = None
    database_direct_url: SecretStr | None = None  # past a pooler; without it the other one
    database_connections: Annotated[int, Field(ge=FEWEST, le=10_000)] | None = (
        None  # a process's at most; else by threads
    )
    # Roles belong to the whole server: deployments that share one and this name share who may read what.
    role_prefix: str = ROLE_PREFIX
    broker_url: SecretStr | None = None
    broker_ca_file: Path | None = None  # the authorities that may vouch for the broker; without it the system's
    secret_key: SecretStr | None = None
    previous_secret_keys: tuple[SecretStr, ...] = ()  # during a rotation: they decrypt, and encrypt nothing
    # How cards hold their tokens in the database. In the clear, services read them in SQL (``registry.card_tokens``);
    # encrypted, over HTTP alone. Hints that wait are encrypted in any case. ``docs/design.md`` has the argument.
    tokens_at_rest: Literal["clear", "encrypted"] = "clear"
    data_dir: Path = Path(".cardsync")
    # Hints at most that wait on disk (the name is from the time of one file for each). The bound on bytes is the one that counts:
    # half a million hints of 1 KiB, a quarter of an hour at 500 a second. 100,000 rows would be full after three minutes of that.
    spool_max_files: Annotated[int, Field(ge=1, le=10_000_000)] = 1_000_000
    spool_max_bytes: Annotated[int, Field(ge=4_096, le=2**40)] = 512 * 1_048_576
    # How long acknowledged hints stay on the web's disk, to be brought in again after a failover that lost some: longer than a
    # standby may lag. A hint takes about 1 KiB; ``spool_max_bytes`` bounds them too. 0 keeps none.
    keep_minutes: Annotated[int, Field(ge=0, le=1_440)] = 10
    ack_status: Annotated[int, Field(ge=200, le=201)] = 200
    max_body_bytes: Annotated[int, Field(ge=1, le=64 * 1_048_576)] = 1_048_576
    webhook_path: str | None = None
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    web_threads: Annotated[int, Field(ge=1, le=256)] = 8
    worker_threads: Annotated[int, Field(ge=1, le=256)] = 64
    # Where a worker or beat answers /livez, /readyz and /metrics; the web answers them on its own port.
    health_port: Annotated[int, Field(ge=1, le=65_535)] | None = None
    # How long a hinted card may be missing from the list before the hint is dropped: Ottu does not document
    # how soon a new card shows.
    confirm_seconds: Annotated[float, Field(ge=0, le=3_600)] = 120.0
    # Two routine looks at one customer are at least this far apart, however much budget is left.
    look_again_seconds: Annotated[float, Field(ge=1, le=30 * 86_400)] = 300.0
    # Of the recent looks at customers this share may lack a card that they should have confirmed. Beyond it at most this
    # number of customers (the floor) may lose cards; then removals stop until an operator releases them. The share must lie
    # above what shoppers do in silence: their deletions of a day over the looks of a day. ``core.brake`` has the arithmetic.
    removal_brake_share: Annotated[float, Field(gt=0, le=1)] = 0.15
    removal_brake_floor: Annotated[int, Field(ge=0)] = 25
    # One asker may have this share of all active cards deleted in a day, or the floor if that is more. Then a person decides. A
    # shop's payers delete far fewer: with a card for three years, one in a thousand a day.
    deletion_brake_share: Annotated[float, Field(gt=0, le=1)] = 0.01
    deletion_brake_floor: Annotated[int, Field(ge=0, le=10_000_000)] = 100
    # How long a notification keeps its content about a person and a payment, and how long its row is kept, which
    # recognises a late duplicate.
    inbox_content_days: Annotated[int, Field(ge=1, le=3_650)] = 30
    inbox_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    # How long the hash of a signature is kept. A signed body is good for ever: after that it is fresh once more.
    signature_days: Annotated[int, Field(ge=1, le=36_500)] = 1_100
    # How long it is kept which API key read which card's token: about 60 bytes a read.
    token_read_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    # Where browsers find the console, as its operators type it: what a proxy that ends TLS says of itself is not believed.
    console_url: str | None = None
    console_read_only: bool = False
    # Sign-in to the console by OpenID Connect: the exact value of a claim gives the role.
    oidc_issuer: str | None = None
    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    oidc_roles: Mapping[str, ConsoleRole] = {}
    oidc_claim: str = "groups"
    # How long a notification that was passed on can be replayed, from the time when each endpoint has it or was given up.
    relay_keep_days: Annotated[int, Field(ge=0, le=365)] = 3
    # Where a card's last day ends. The database keeps it for its views: `cardsync db upgrade` writes it there.
    time_zone: str = "Asia/Kuwait"
    ottu_merchant_id: str | None = None
    ottu_base_url: str | None = None
    ottu_api_key: SecretStr | None = None
    ottu_api_key_expires_on: dt.date | None = None  # as Ottu's dashboard shows it: after that day calls are refused
    ottu_username: str | None = None
    ottu_password: SecretStr | None = None
    ottu_webhook_keys: tuple[SecretStr, ...] = ()
    ottu_cards_api: Literal["enabled", "unavailable"] = "enabled"
    ottu_daily_calls: Annotated[int, Field(ge=1)] = 90_000
    ottu_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _database_url_is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        return _with_scheme(value, DATABASE_SCHEMES)

    @field_validator("role_prefix")
    @classmethod
    def _role_prefix_is_a_name(cls, value: str) -> str:
        if re.fullmatch(r"(?!pg_)[a-z][a-z0-9_]{0,39}_", value) is None:
            raise ValueError("must be small letters, digits and _, at most 41, with _ at the end, such as staging_")
        return value

    @field_validator("broker_url")
    @classmethod
    def _broker_url_is_known(cls, value: SecretStr | None) -> SecretStr | None:
        known = _with_scheme(value, BROKER_SCHEMES)
        if known is not None and are_sentinels(known.get_secret_value()):
            Sentinels.read(known.get_secret_value().split(";"))
        return known

    @field_validator("secret_key")
    @classmethod
    def _secret_key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @field_validator("webhook_path")
    @classmethod
    def _webhook_path_is_plain(cls, value: str | None) -> str | None:
        if value is not None and (re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", value) is None or value.startswith("/v1/")):
            raise ValueError("must be a path of letters, digits and . _ ~ - such as /webhooks/3f9c...")
        return value

    @field_validator("time_zone")
    @classmethod
    def _time_zone_is_known(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("must be a time zone's name, such as Asia/Kuwait") from None
        return value

    @field_validator("previous_secret_keys")
    @classmethod
    def _previous_secret_keys_are_long(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if any(len(key.get_secret_value()) < 32 for key in value):
            raise ValueError("must be keys of at least 32 characters, separated by commas")
        return value

    @field_validator("ottu_webhook_keys", "previous_secret_keys", mode="before")
    @classmethod
    def _keys_are_comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(k.strip() for k in value.split(",") if k.strip())
        return value

    @field_validator("ottu_webhook_keys")
    @classmethod
    def _keys_are_one_line(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        # Keys in a file, one a line, would be read as one long key that no signature ever matches.
        if any(not key.get_secret_value().isprintable() for key in value):
            raise ValueError("must be separated by commas, without line breaks or control characters")
        bound = [BoundKey.read(key.get_secret_value()) for key in value]
        if any(not one.key for one in bound):
            raise ValueError("has no key after `production:` or `sandbox:`")
        # Bound twice, a key would say nothing of the environment; bound and plain, it is not clear what is meant.
        if len({one.key for one in bound}) < len({(one.key, one.environment) for one in bound}):
            raise ValueError("binds one key in two ways")
        return value

    @field_validator("ottu_api_key")
    @classmethod
    def _api_key_fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and re.fullmatch(r"[!-~]+", value.get_secret_value()) is None:
            raise ValueError("must be ASCII characters without spaces")
        return value

    @field_validator("ottu_merchant_id")
    @classmethod
    def _merchant_id_is_a_host(cls, value: str | None) -> str | None:
        if value is not None:
            require_host(value)
        return value

    @field_validator("ottu_base_url")
    @classmethod
    def _base_url_is_safe(cls, value: str | None) -> str | None:
        if value is None:
            return None
        require_safe_base(value)
        return value.rstrip("/")

    @field_validator("console_url")
    @classmethod
    def _console_url_is_an_origin(cls, value: str | None) -> str | None:
        if value is None:
            return None
        require_origin(value)
        return value.rstrip("/")

    @field_validator("oidc_issuer")
    @classmethod
    def _oidc_issuer_is_safe(cls, value: str | None) -> str | None:
        if value is not None:
            require_safe_base(value)
        return value

    @field_validator("oidc_roles", mode="before")
    @classmethod
    def _oidc_roles_are_json(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError(
                'must be JSON, the exact value of a claim to a role: {"card-support": "support"}'
            ) from None

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> Settings:
        parts = (self.oidc_issuer, self.oidc_client_id, self.oidc_client_secret, self.oidc_roles or None)
        if any(parts) and not all(parts):
            raise ValueError(
                "CARDSYNC_OIDC_ISSUER, CARDSYNC_OIDC_CLIENT_ID, CARDSYNC_OIDC_CLIENT_SECRET and CARDSYNC_OIDC_ROLES go together"
            )
        if self.oidc_issuer is not None and self.console_url is None:
            raise ValueError("CARDSYNC_CONSOLE_URL is needed with OpenID Connect: the issuer sends browsers back there")
        return self

    @model_validator(mode="after")
    def _username_has_password(self) -> Settings:
        if (self.ottu_username is None) != (self.ottu_password is None):
            raise ValueError("OTTU_USERNAME and OTTU_PASSWORD must be set together")
        return self

    @model_validator(mode="after")
    def _content_goes_no_later_than_its_row(self) -> Settings:
        if self.inbox_content_days > self.inbox_days:
            raise ValueError("CARDSYNC_INBOX_CONTENT_DAYS must not be more than CARDSYNC_INBOX_DAYS")
        return self

    @property
    def ottu_url(self) -> str:
        """Where Ottu answers, without a slash at the end. Raises ``Misconfigured`` if it is not set."""
        if self.ottu_base_url is None and self.ottu_merchant_id is None:
            raise Misconfigured(_MERCHANT_ID_MISSING)
        return self.ottu_base_url or f"https://{self.ottu_merchant_id}"

    @property
    def console_base(self) -> str:
        """Where browsers find the console, without a slash at the end; by default where ``cardsync console`` listens."""
        return self.console_url or f"http://127.0.0.1:{CONSOLE_PORT}"

    @property
    def ottu_credentials_set(self) -> bool:
        """Whether calls to Ottu can be made at all."""
        return self.ottu_api_key is not None or self.ottu_username is not None

    @property
    def ottu_can_be_called(self) -> bool:
        """Whether it is known where Ottu is, and how to sign in there."""
        return self.ottu_credentials_set and (self.ottu_base_url is not None or self.ottu_merchant_id is not None)

    def database(self, *, direct: bool = False) -> Place:
        """Return what says where the database is, and is asked at each connection: a password in a file may be replaced.

        With ``direct`` it is the address past a pooler, if there is one. Raises ``Misconfigured`` if it is not set.
        """
        field = "database_direct_url" if direct and self.database_direct_url is not None else "database_url"
        value: SecretStr | None = getattr(self, field)
        if value is None:
            raise Misconfigured("CARDSYNC_DATABASE_URL is missing")
        at_start, file = value.get_secret_value(), self._files.get(field)

        def read() -> str:
            if file is None:
                return at_start
            try:
                return read_file(NAMES[field], file)
            except Misconfigured:  # it is being replaced at this moment
                return at_start

        return Place(read, self.data_dir)

    def broker(self) -> str:
        """The broker's address, which is asked at each connection: a password in a file may be replaced.

        Raises ``Misconfigured`` if it is not set.
        """
        if self.broker_url is None:
            raise Misconfigured("CARDSYNC_BROKER_URL is missing")
        at_start, file = self.broker_url.get_secret_value(), self._files.get("broker_url")
        if file is None:
            return at_start
        try:
            read = read_file(NAMES["broker_url"], file)
            require_scheme(read, BROKER_SCHEMES)
        except (Misconfigured, ValueError):  # it is being replaced at this moment
            return at_start
        return read

    def secret_bytes(self) -> bytes:
        """The secret key as it was given. Raises ``Misconfigured`` if it is not set."""
        if self.secret_key is None:
            raise Misconfigured("CARDSYNC_SECRET_KEY is missing")
        return self.secret_key.get_secret_value().encode()

    def key_ring(self) -> KeyRing:
        """The secret key, ready to encrypt with, and the previous ones beside it. Raises ``Misconfigured`` if none is set."""
        previous = [key.get_secret_value().encode() for key in self.previous_secret_keys]
        return KeyRing(self.secret_bytes(), previous, encrypts_cards=self.tokens_at_rest == "encrypted")

    def warnings(self) -> list[str]:
        """What is allowed and looks like a mistake, one line each; no value of a secret is in it."""
        lines = []
        short = [n for n, key in enumerate(self.webhook_keys(), 1) if len(BoundKey.read(key).key) < SHORT_KEY]
        if short:
            which = ", ".join(map(str, short))
            lines.append(
                f"OTTU_WEBHOOK_KEYS: key {which} has fewer than {SHORT_KEY} characters: it can be guessed, or it is a part of a "
                "key that has a comma of its own"
            )
        return lines

    def webhook_keys(self) -> tuple[str, ...]:
        """The HMAC keys of the webhook as they were given, in that order (``core.webhook_keys.BoundKey`` reads one)."""
        return tuple(k.get_secret_value() for k in self.ottu_webhook_keys)


def load(*needs: Need, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read all settings; raise ``Misconfigured``, in one line, if any is malformed or a need is unmet."""
    environ = os.environ if environ is None else environ
    here = Path.cwd() if cwd is None else cwd
    dotenv = read_dotenv(here / ".env")
    given = {f: v for f, name in NAMES.items() if (v := value_of(name, environ, dotenv, here)) is not None}
    data_dir = Path(given.get("data_dir", ".cardsync"))
    own_ottu = any(field in given for field in _OTTU_AS_ONE)  # asked before anything of dev's is filled in
    for field, value in offered_by_dev(here / data_dir).items():
        if field in NAMES and not (own_ottu and field in _OTTU_AS_ONE):
            given.setdefault(field, value)
    try:
        files = {f: path for f in _READ_AGAIN if (path := file_of(NAMES[f], environ, dotenv, here)) is not None}
        settings = Settings.model_validate({**given, "data_dir": here / data_dir})
        settings._files.update(files)
    except ValidationError as error:
        raise Misconfigured("; ".join(_line(e) for e in error.errors())) from None
    missing = [text for need in needs for text in _missing(settings, need)]
    if missing:
        raise Misconfigured("; ".join(missing))
    return settings


# Where Ottu is and how to sign in there belong together: the address of a simulator
# never completes real credentials.
_OTTU_AS_ONE: Final = ("ottu_merchant_id", "ottu_base_url", "ottu_api_key", "ottu_username", "ottu_password")


# Names that begin like ours and are read elsewhere: by tests, by docker-compose.yml, by cardsync dev.
_OTHER_NAMES: Final = (
    *(
        "CARDSYNC_POSTGRES_BIN",
        "CARDSYNC_REQUIRE_SERVICES",
        "CARDSYNC_TEST_RABBITMQ_URL",
        "CARDSYNC_LISTEN",
        "CARDSYNC_IMAGE",
    ),
    *("CARDSYNC_FUZZ_BODIES", "CARDSYNC_FUZZ_SECONDS", "CARDSYNC_FUZZ_SEED", "CARDSYNC_HYPOTHESIS_PROFILE"),
)


def unknown_names(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> list[tuple[str, str | None]]:
    """Names in the environment and ``.env`` that look like settings and are none, each with the setting that was meant."""
    environ = os.environ if environ is None else environ
    dotenv = read_dotenv((Path.cwd() if cwd is None else cwd) / ".env")
    known = {n for name in NAMES.values() for n in (name, f"{name}_FILE")}
    found = sorted(
        name
        for name in {*environ, *dotenv}
        if name.startswith(("CARDSYNC_", "OTTU_")) and name not in known and name not in _OTHER_NAMES
    )
    return [(name, next(iter(difflib.get_close_matches(name, known, 1, 0.8)), None)) for name in found]


# Those that are read at each connection. Every process that needs another one is started again when it changes.
_READ_AGAIN: Final = ("database_url", "database_direct_url", "broker_url")


def _missing(settings: Settings, need: Need) -> list[str]:
    match need:
        case "database" if settings.database_url is None:
            return ["CARDSYNC_DATABASE_URL is missing (postgresql://...), and no `cardsync dev` runs here"]
        case "broker" if settings.broker_url is None:
            return [
                "CARDSYNC_BROKER_URL is missing (amqp://..., redis://... or sentinel://...), and no `cardsync dev` runs here"
            ]
        case "secret" if settings.secret_key is None:
            return ["CARDSYNC_SECRET_KEY is missing (at least 32 characters; make one with: openssl rand -hex 32)"]
        case "webhook" if not settings.ottu_webhook_keys:
            return ["OTTU_WEBHOOK_KEYS is missing (HMAC keys, comma-separated)"]
        case "ottu" if settings.ottu_cards_api == "enabled":
            lines = []
            if settings.ottu_merchant_id is None and settings.ottu_base_url is None:
                lines.append(_MERCHANT_ID_MISSING)
            if not settings.ottu_credentials_set:
                lines.append("OTTU_API_KEY is missing (or OTTU_USERNAME and OTTU_PASSWORD)")
            return lines
    return []


def _line(error: Any) -> str:
    """One of pydantic's errors as ``NAME is wrong: why``, without the value."""
    name = NAMES.get(str(error["loc"][0]), str(error["loc"][0])) if error["loc"] else ""
    why = str(error["msg"]).removeprefix("Value error, ")
    return f"{name} is wrong: {why}" if name else why


def _with_scheme(value: SecretStr | None, schemes: tuple[str, ...]) -> SecretStr | None:
    if value is not None:
        require_scheme(value.get_secret_value(), schemes)
    return value
