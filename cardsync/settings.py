"""Settings: read once, at a process's start; a wrong or missing one stops the process in one line.

Order of precedence: the environment, ``NAME_FILE`` (a file that holds the value, as container platforms mount
secrets), ``.env`` in the current folder, then what a running ``cardsync dev`` wrote into the data directory.
Secrets are ``SecretStr``: they print as asterisks.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from cardsync.addresses import (
    BROKER_SCHEMES,
    DATABASE_SCHEMES,
    require_host,
    require_safe_base,
    require_scheme,
)
from cardsync.errors import Misconfigured

Need = Literal["database", "broker", "secret", "webhook", "ottu"]

DEV_FILE: Final = "dev.json"  # inside the data directory; written by `cardsync dev` while it runs, mode 0600
DEV_LOCK: Final = "dev.lock"  # held by it, with flock, for as long as it lives
MAX_SECRET_FILE_BYTES: Final = 65_536

# field of Settings -> environment variable
NAMES: Final[dict[str, str]] = {
    "database_url": "CARDSYNC_DATABASE_URL",
    "broker_url": "CARDSYNC_BROKER_URL",
    "secret_key": "CARDSYNC_SECRET_KEY",
    "data_dir": "CARDSYNC_DATA_DIR",
    "spool_max_files": "CARDSYNC_SPOOL_MAX_FILES",
    "spool_max_bytes": "CARDSYNC_SPOOL_MAX_BYTES",
    "ack_status": "CARDSYNC_ACK_STATUS",
    "max_body_bytes": "CARDSYNC_MAX_BODY_BYTES",
    "log_format": "CARDSYNC_LOG_FORMAT",
    "log_level": "CARDSYNC_LOG_LEVEL",
    "web_threads": "CARDSYNC_WEB_THREADS",
    "worker_threads": "CARDSYNC_WORKER_THREADS",
    "confirm_seconds": "CARDSYNC_CONFIRM_S",
    "look_again_seconds": "CARDSYNC_LOOK_AGAIN_S",
    "removal_brake_share": "CARDSYNC_REMOVAL_BRAKE_SHARE",
    "removal_brake_floor": "CARDSYNC_REMOVAL_BRAKE_FLOOR",
    "inbox_content_days": "CARDSYNC_INBOX_CONTENT_DAYS",
    "inbox_days": "CARDSYNC_INBOX_DAYS",
    "ottu_merchant_id": "OTTU_MERCHANT_ID",
    "ottu_base_url": "OTTU_BASE_URL",
    "ottu_api_key": "OTTU_API_KEY",
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

    database_url: SecretStr | None = None
    broker_url: SecretStr | None = None
    secret_key: SecretStr | None = None
    data_dir: Path = Path(".cardsync")
    # Hints that wait on disk: fifteen minutes of 100 a second, or a day of one a second, in 4 KiB each, which is what a
    # file takes; drained within minutes. Whoever has more traffic and room may set more: a folder of a million files works.
    spool_max_files: Annotated[int, Field(ge=1, le=10_000_000)] = 100_000
    spool_max_bytes: Annotated[int, Field(ge=4_096, le=2**40)] = 512 * 1_048_576
    ack_status: Annotated[int, Field(ge=200, le=201)] = 200
    max_body_bytes: Annotated[int, Field(ge=1, le=64 * 1_048_576)] = 1_048_576
    log_format: Literal["auto", "json", "console"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    web_threads: Annotated[int, Field(ge=1, le=256)] = 8
    worker_threads: Annotated[int, Field(ge=1, le=256)] = 8
    # How long a hinted card may be missing from the list before the hint is dropped: Ottu does not document
    # how soon a new card shows.
    confirm_seconds: Annotated[float, Field(ge=0, le=3_600)] = 120.0
    # A customer of whom nothing was heard is looked at again no sooner than this, whatever budget is left.
    look_again_seconds: Annotated[float, Field(ge=1, le=30 * 86_400)] = 300.0
    # One day's sweeps may remove this share of all cards, or the floor if that is more. Then a
    # person decides.
    removal_brake_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    removal_brake_floor: Annotated[int, Field(ge=0)] = 50
    # How long a notification keeps what it said of a person and a payment, and how long its row is kept,
    # by which a late duplicate is recognised.
    inbox_content_days: Annotated[int, Field(ge=1, le=3_650)] = 30
    inbox_days: Annotated[int, Field(ge=1, le=3_650)] = 90
    ottu_merchant_id: str | None = None
    ottu_base_url: str | None = None
    ottu_api_key: SecretStr | None = None
    ottu_username: str | None = None
    ottu_password: SecretStr | None = None
    ottu_webhook_keys: tuple[SecretStr, ...] = ()
    ottu_cards_api: Literal["enabled", "unavailable"] = "enabled"
    ottu_daily_calls: Annotated[int, Field(ge=1)] = 90_000
    ottu_timeout_s: Annotated[float, Field(gt=0, le=120)] = 10.0

    @field_validator("database_url")
    @classmethod
    def _database_url_is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        return _with_scheme(value, DATABASE_SCHEMES)

    @field_validator("broker_url")
    @classmethod
    def _broker_url_is_known(cls, value: SecretStr | None) -> SecretStr | None:
        return _with_scheme(value, BROKER_SCHEMES)

    @field_validator("secret_key")
    @classmethod
    def _secret_key_is_long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @field_validator("ottu_webhook_keys", mode="before")
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
    def ottu_credentials_set(self) -> bool:
        """Whether calls to Ottu can be made at all."""
        return self.ottu_api_key is not None or self.ottu_username is not None

    def secret_bytes(self) -> bytes:
        """The key of the fingerprints. Raises ``Misconfigured`` if it is not set."""
        if self.secret_key is None:
            raise Misconfigured("CARDSYNC_SECRET_KEY is missing")
        return self.secret_key.get_secret_value().encode()

    def webhook_keys(self) -> tuple[str, ...]:
        """The HMAC keys of the webhook, in the order in which they were given."""
        return tuple(k.get_secret_value() for k in self.ottu_webhook_keys)


def load(*needs: Need, environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read all settings; raise ``Misconfigured``, in one line, if any is malformed or a need is unmet."""
    environ = os.environ if environ is None else environ
    here = Path.cwd() if cwd is None else cwd
    dotenv = _read_dotenv(here / ".env")
    given = {f: v for f, name in NAMES.items() if (v := _value(name, environ, dotenv, here)) is not None}
    data_dir = Path(given.get("data_dir", ".cardsync"))
    own_ottu = any(field in given for field in _OTTU_AS_ONE)  # asked before anything of dev's is filled in
    for field, value in _dev_values(here / data_dir).items():
        if not (own_ottu and field in _OTTU_AS_ONE):
            given.setdefault(field, value)
    try:
        settings = Settings.model_validate({**given, "data_dir": here / data_dir})
    except ValidationError as error:
        raise Misconfigured("; ".join(_line(e) for e in error.errors())) from None
    missing = [text for need in needs for text in _missing(settings, need)]
    if missing:
        raise Misconfigured("; ".join(missing))
    return settings


# Where Ottu is and how to sign in there belong together: the address of a simulator
# never completes real credentials.
_OTTU_AS_ONE: Final = ("ottu_merchant_id", "ottu_base_url", "ottu_api_key", "ottu_username", "ottu_password")


def _read_dotenv(path: Path) -> dict[str, str]:
    """What ``.env`` holds, literally: a ``${`` in a password is a part of the password."""
    try:
        return {k: v for k, v in dotenv_values(path, interpolate=False).items() if v is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f".env cannot be read: {type(error).__name__}") from None


def _value(name: str, environ: Mapping[str, str], dotenv: Mapping[str, str], here: Path) -> str | None:
    for source in (environ, dotenv):
        plain, file = source.get(name) or None, source.get(f"{name}_FILE") or None
        if plain is not None and file is not None:
            raise Misconfigured(f"{name} and {name}_FILE are both set: keep one")
        if plain is not None:
            if any("\ud800" <= c <= "\udfff" for c in plain):  # how Python reads bytes that are no UTF-8
                raise Misconfigured(f"{name} is wrong: is not UTF-8")
            return plain
        if file is not None:
            return _read_secret(name, here / file)
    return None


def _read_secret(name: str, path: Path) -> str:
    try:
        if path.stat().st_size > MAX_SECRET_FILE_BYTES:
            raise Misconfigured(f"{name}_FILE names a file of over {MAX_SECRET_FILE_BYTES} bytes")
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that is none
        raise Misconfigured(f"{name}_FILE cannot be read: {type(error).__name__}") from None
    if not value:  # an empty variable is an unset one, but somebody meant this file to hold the value
        raise Misconfigured(f"{name}_FILE names an empty file")
    return value


def _dev_values(data_dir: Path) -> dict[str, Any]:
    """What a running ``cardsync dev`` offers; nothing if none runs.

    It runs if its lock is held: the kernel lets go of it however the holder ends, while a process id is given out again.
    """
    try:
        content = json.loads((data_dir / DEV_FILE).read_text(encoding="utf-8"))
        offered = {f: v for f, v in content["settings"].items() if f in NAMES}
        with (data_dir / DEV_LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return offered
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # what lies there is not its file
    return {}


def _missing(settings: Settings, need: Need) -> list[str]:
    match need:
        case "database" if settings.database_url is None:
            return ["CARDSYNC_DATABASE_URL is missing (postgresql://...), and no `cardsync dev` runs here"]
        case "broker" if settings.broker_url is None:
            return ["CARDSYNC_BROKER_URL is missing (amqp://... or redis://...), and no `cardsync dev` runs here"]
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
