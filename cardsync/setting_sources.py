"""Where a setting's text comes from: the environment, a file that ``NAME_FILE`` names, ``.env``, and a running ``cardsync dev``.

Nothing here knows what the settings are (``cardsync.settings`` does), and no error shows a value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dotenv import dotenv_values

from cardsync.errors import Misconfigured
from cardsync.files import is_locked

DEV_FILE: Final = "dev.json"  # inside the data directory; written by `cardsync dev` while it runs, mode 0600
DEV_LOCK: Final = "dev.lock"  # locked by it for as long as it lives (cardsync.files)
MAX_SECRET_FILE_BYTES: Final = 65_536


def read_dotenv(path: Path) -> dict[str, str]:
    """What ``.env`` holds, literally: a ``${`` in a password is a part of the password."""
    try:
        return {k: v for k, v in dotenv_values(path, interpolate=False).items() if v is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise Misconfigured(f".env cannot be read: {type(error).__name__}") from None


def value_of(name: str, environ: Mapping[str, str], dotenv: Mapping[str, str], here: Path) -> str | None:
    """The text of one variable, from the first source that has it. Raises ``Misconfigured`` for one that cannot be read."""
    for source in (environ, dotenv):
        plain, file = source.get(name) or None, source.get(f"{name}_FILE") or None
        if plain is not None and file is not None:
            raise Misconfigured(f"{name} and {name}_FILE are both set: keep one")
        if plain is not None:
            if any("\ud800" <= c <= "\udfff" for c in plain):  # how Python reads bytes that are no UTF-8
                raise Misconfigured(f"{name} is wrong: is not UTF-8")
            return plain
        if file is not None:
            return read_file(name, here / file)
    return None


def file_of(name: str, environ: Mapping[str, str], dotenv: Mapping[str, str], here: Path) -> Path | None:
    """The file that a value was read from; ``None`` if it came from elsewhere."""
    for source in (environ, dotenv):
        if source.get(name):
            return None
        if file := source.get(f"{name}_FILE"):
            return here / file
    return None


def read_file(name: str, path: Path) -> str:
    """The text of a file that holds a value, without blanks around it. Raises ``Misconfigured``; no error shows the text."""
    try:
        if path.stat().st_size > MAX_SECRET_FILE_BYTES:
            raise Misconfigured(f"{name}_FILE names a file of over {MAX_SECRET_FILE_BYTES} bytes")
        value = path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path that is none
        raise Misconfigured(f"{name}_FILE cannot be read: {type(error).__name__}") from None
    if not value:  # an empty variable counts as unset, but a file is named to hold a value
        raise Misconfigured(f"{name}_FILE names an empty file")
    return value


def offered_by_dev(data_dir: Path) -> dict[str, Any]:
    """The settings that a running ``cardsync dev`` offers; nothing if none runs. It runs if its lock is held."""
    try:
        content = json.loads((data_dir / DEV_FILE).read_text(encoding="utf-8"))
        offered = dict(content["settings"].items())
        return offered if is_locked(data_dir / DEV_LOCK) else {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}  # what lies there is not its file
