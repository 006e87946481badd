"""Install the packages of a lock file into the environment of the Python that runs this.

    python requirements/install.py requirements/dev.txt

Rule: all of it by hash, from the indexes that pip is configured with. uv does it in a tenth of pip's time and reads nothing that
is written for pip, so that it is told what pip would do. Where pip's configuration says what uv has no word for, where there is
no uv, and where it fails, pip does it.
"""

from __future__ import annotations

import ast
import collections
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

PIP: Final = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
BY_HASH: Final = ("--require-hashes", "--no-deps", "--only-binary", ":all:")

# pip's words for where packages come from, and uv's variables for the same: no arguments, since an address may hold a password.
VARIABLES: Final = {
    "index-url": ("UV_DEFAULT_INDEX",),
    "extra-index-url": ("UV_INDEX",),
    "find-links": ("UV_FIND_LINKS",),
    "trusted-host": ("UV_INSECURE_HOST",),
    "cert": ("SSL_CERT_FILE",),
    "proxy": ("HTTP_PROXY", "HTTPS_PROXY"),
    "timeout": ("UV_HTTP_TIMEOUT",),
    "default-timeout": ("UV_HTTP_TIMEOUT",),
}
# What bears neither on where a package comes from nor on which: its hash says which, so that a constraint has nothing to choose.
OUTPUT: Final = {"disable-pip-version-check", "no-color", "no-input", "progress-bar", "quiet", "verbose"}
WARNINGS: Final = {"no-python-version-warning", "no-warn-script-location", "root-user-action"}
WHERE_TO: Final = {"break-system-packages", "cache-dir", "no-cache-dir", "no-compile", "require-virtualenv"}
NO_MATTER: Final = {"constraint", "prefer-binary", "retries"} | OUTPUT | WARNINGS | WHERE_TO
_SECTIONS: Final = ("global", "install", ":env:")  # what stands in a later one counts
_LINE: Final = re.compile(r"(?P<section>[^.=]+)\.(?P<name>[^=]+)=(?P<value>.*)")
LINES: Final = 20  # of what it said, if it failed


def main(lock: Path) -> int:
    """Install what the lock file names, and give the exit code of what installed it."""
    total = len(re.findall(r"^[^\s#]+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    print(f"Installing {lock} ({total} packages)", flush=True)
    uv, told = Path(sys.executable).with_name("uv"), for_uv(pip_configuration())
    if uv.exists() and told is not None:
        as_pip_chooses = ("--python", sys.executable, "--index-strategy", "unsafe-best-match")
        arguments = (*as_pip_chooses, *BY_HASH, "--requirements", str(lock))
        if _run((str(uv), "pip", "install", *arguments), {**os.environ, **told}) == 0:
            return 0
        print("uv could not do it, so pip does: that takes longer.", flush=True)
    return _run(
        (*PIP, "install", "--no-compile", "--progress-bar", "off", *BY_HASH, "--requirement", str(lock)), os.environ
    )


def pip_configuration() -> dict[str, str]:
    """What pip is configured with for installing, by its own words."""
    said = subprocess.run((*PIP, "config", "list"), capture_output=True, text=True, check=False).stdout
    found = [line for line in map(_LINE.fullmatch, said.splitlines()) if line is not None]
    return {
        line["name"]: str(ast.literal_eval(line["value"]))
        for section in _SECTIONS
        for line in found
        if line["section"] == section
    }


def for_uv(configuration: Mapping[str, str]) -> dict[str, str] | None:
    """The variables that tell uv the same; ``None`` where it has no word for a part."""
    if not configuration.keys() <= VARIABLES.keys() | NO_MATTER:
        return None
    return {
        variable: ("," if name == "find-links" else " ").join(value.split())
        for name, value in configuration.items()
        for variable in VARIABLES.get(name, ())
    }


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run what installs. A terminal sees which package it is at; what it said is printed only if it failed."""
    on_terminal, said = sys.stdout.isatty(), collections.deque[str](maxlen=LINES)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=environment
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if on_terminal:
                print(f"\r  {line.strip()[:70]:<70}", end="", flush=True)
    if on_terminal:
        print(f"\r{'':<72}\r", end="", flush=True)
    if process.returncode != 0:
        print("".join(said), end="", flush=True)
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
