"""Each setting is where an operator looks for it: in ``.env.example`` and, unless it is a secret, in ``docker-compose.yml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from pydantic import SecretStr

from cardsync.settings import NAMES, Settings

ROOT: Final = Path(__file__).resolve().parents[2]


def _types(annotation: Any) -> set[Any]:
    return {annotation, *(one for part in get_args(annotation) for one in _types(part))}


SECRETS: Final = {
    NAMES[field] for field, info in Settings.model_fields.items() if {SecretStr} & _types(info.annotation)
}
EXAMPLES: Final = dict(
    re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(encoding="utf-8"), re.MULTILINE)
)
ADDRESSES: Final = ("postgresql://cardsync@127.0.0.1/cardsync", "amqp://cardsync@127.0.0.1//")  # without a password
COMPOSE_ONLY: Final = {"CARDSYNC_LISTEN", "CARDSYNC_CONSOLE_LISTEN", "CARDSYNC_IMAGE"}
CONSOLE_ONLY: Final = {"CARDSYNC_CONSOLE_URL", "CARDSYNC_CONSOLE_READ_ONLY"}
BY_THE_IMAGE: Final = {"CARDSYNC_DATA_DIR", "CARDSYNC_LOG_FORMAT"}
# What most merchants do not need, and those containers that then get it: a process refuses a half of these settings.
OVERLAYS: Final = {
    "password": ({"worker"}, {"OTTU_USERNAME", "OTTU_PASSWORD"}),
    "pooler": ({"web", "web-spare", "worker", "beat", "migrate"}, {"CARDSYNC_DATABASE_DIRECT_URL"}),
    "broker-ca": ({"web", "web-spare", "worker", "beat", "migrate"}, {"CARDSYNC_BROKER_CA_FILE"}),
    "oidc": ({"console"}, {name for name in NAMES.values() if name.startswith("CARDSYNC_OIDC_")}),
    "rotation": ({"web", "web-spare", "worker", "migrate"}, {"CARDSYNC_PREVIOUS_SECRET_KEYS"}),
}
IN_OVERLAYS: Final = set().union(*(names for _, names in OVERLAYS.values()))


class _Loader(yaml.SafeLoader):
    """Reads what compose's own tags mark as it stands."""


_Loader.add_constructor("!override", lambda loader, node: loader.construct_sequence(node))


def _compose(name: str = "docker-compose.yml") -> Any:
    return yaml.load((ROOT / name).read_text(encoding="utf-8"), _Loader)  # noqa: S506  (a safe loader)


def _default(name: str) -> str:
    field = next(field for field, variable in NAMES.items() if variable == name)
    default = Settings.model_fields[field].default
    if isinstance(default, bool):
        return str(default).lower()
    return "" if default is None or default == {} else f"{default:g}" if isinstance(default, float) else str(default)


def test_the_example_names_every_setting_and_no_other() -> None:
    assert set(EXAMPLES) == set(NAMES.values()) | COMPOSE_ONLY


def test_the_example_shows_no_secret_and_else_the_default_if_there_is_one() -> None:
    for name in NAMES.values():
        if name in SECRETS:
            assert EXAMPLES[name] in ("", *ADDRESSES), name
        elif _default(name):
            assert EXAMPLES[name] == _default(name), name


SERVICES: Final = {
    name: one for name, one in _compose()["services"].items() if "OTTU_MERCHANT_ID" in one.get("environment", {})
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_of_ours_is_given_every_setting_that_is_no_secret_and_no_secret(service: str) -> None:
    given = SERVICES[service]["environment"]
    wanted = set(NAMES.values()) - SECRETS - BY_THE_IMAGE - IN_OVERLAYS - CONSOLE_ONLY
    wanted |= CONSOLE_ONLY if service == "console" else set()
    assert {name for name in given if not name.endswith("_FILE")} == wanted
    for name, value in given.items():
        if name.endswith("_FILE") or name == "OTTU_MERCHANT_ID":
            continue
        assert value == f"${{{name}:-{_default(name)}}}", name


def test_every_process_of_ours_is_among_them() -> None:
    assert set(SERVICES) == {"web", "web-spare", "worker", "beat", "console", "migrate"}


def _setting(variable: str) -> str:
    """The setting that a variable gives: its text, or a file that holds it."""
    return variable if variable in NAMES.values() else variable.removesuffix("_FILE")


def test_every_setting_can_be_given_in_compose() -> None:
    given = {_setting(variable) for one in SERVICES.values() for variable in one["environment"]}
    assert given | IN_OVERLAYS | BY_THE_IMAGE == set(NAMES.values())


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_gives_its_settings_to_those_who_need_them_and_its_secrets_to_no_other(name: str) -> None:
    services, settings = OVERLAYS[name]
    overlay = _compose(f"deploy/compose.{name}.yml")
    assert set(overlay["services"]) == services
    for service, one in overlay["services"].items():
        given = {_setting(variable) for variable, value in one["environment"].items() if value}
        assert given == settings
        files = {value.removeprefix("/run/secrets/") for key, value in one["environment"].items() if "/run/" in value}
        assert files
        assert files <= set(one["secrets"]) <= files | set(SERVICES[service]["secrets"])
    secrets = {secret for one in overlay["services"].values() for secret in one["secrets"]}
    known = _compose()["secrets"]
    assert overlay["secrets"] == {one: {"file": f"./deploy/secrets/{one}"} for one in secrets if one not in known}


def test_who_has_a_password_of_ottus_has_no_key_of_it() -> None:
    (worker,) = _compose("deploy/compose.password.yml")["services"].values()
    assert worker["environment"]["OTTU_API_KEY_FILE"] == ""
    assert set(worker["secrets"]) == set(SERVICES["worker"]["secrets"]) - {"ottu_api_key"} | {"ottu_password"}


def test_in_a_rotation_those_get_the_keys_before_that_have_the_secret_key() -> None:
    with_key = {name for name, one in SERVICES.items() if "secret_key" in one["secrets"]}
    rotation = _compose("deploy/compose.rotation.yml")
    assert set(rotation["services"]) == with_key
    for one in rotation["services"].values():
        assert one == {
            "secrets": ["previous_secret_keys"],
            "environment": {"CARDSYNC_PREVIOUS_SECRET_KEYS_FILE": "/run/secrets/previous_secret_keys"},
        }
