"""What installs the lock files: uv, told what pip is configured with, and pip where uv cannot."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INSTALL = runpy.run_path(str(ROOT / "requirements" / "install.py"))


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ({}, {}),
        ({"index-url": "https://index.example/simple"}, {"UV_DEFAULT_INDEX": "https://index.example/simple"}),
        (
            {"extra-index-url": "\nhttps://one.example\nhttps://two.example", "find-links": "/a /b", "retries": "9"},
            {"UV_INDEX": "https://one.example https://two.example", "UV_FIND_LINKS": "/a,/b"},
        ),
        (
            {"proxy": "http://proxy.example:3128", "cert": "/etc/ca.pem"},
            {
                "HTTP_PROXY": "http://proxy.example:3128",
                "HTTPS_PROXY": "http://proxy.example:3128",
                "SSL_CERT_FILE": "/etc/ca.pem",
            },
        ),
        ({"index-url": "https://index.example/simple", "client-cert": "/etc/client.pem"}, None),
        ({"no-index": "true"}, None),
    ],
)
def test_uv_is_told_what_pip_would_do_or_does_nothing(
    configuration: dict[str, str], told: dict[str, str] | None
) -> None:
    assert INSTALL["for_uv"](configuration) == told


def test_pips_own_configuration_is_read_and_the_environment_counts_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pip.conf"
    file.write_text(
        "[global]\nindex-url = https://global.example\ntimeout = 5\n[install]\nindex-url = https://install.example\n"
        "find-links =\n    /one\n    /two\n[download]\nproxy = http://proxy.example\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(file))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_TIMEOUT", "7")
    found = INSTALL["pip_configuration"]()
    assert (found["index-url"], found["timeout"], found["find-links"].split()) == (
        "https://install.example",
        "7",
        ["/one", "/two"],
    )
    assert "proxy" not in found


@pytest.mark.parametrize(
    ("uv", "configured", "who", "exit_code"),
    [
        ("exit 0", "", ["uv"], 0),
        ("exit 2", "", ["uv", "pip"], 5),
        (None, "", ["pip"], 5),
        ("exit 0", "global.client-cert='x'", ["pip"], 5),
    ],
)
def test_pip_does_what_uv_cannot_and_its_exit_code_counts(
    tmp_path: Path, uv: str | None, configured: str, who: list[str], exit_code: int
) -> None:
    """A Python and a uv that note that they were called, and with what."""
    calls = tmp_path / "calls"
    listed = f'case "$*" in *"config list") echo "{configured}"; exit 0;; esac; '
    _script(tmp_path / "python", f'{listed}echo "pip $*" >> {calls}; echo "no such file"; exit 5')
    if uv is not None:
        _script(tmp_path / "uv", f'echo "uv $*" >> {calls}; {uv}')
    run = (
        "import runpy, sys; from pathlib import Path\n"
        f"sys.executable = {str(tmp_path / 'python')!r}\n"
        f"main = runpy.run_path({str(ROOT / 'requirements' / 'install.py')!r})['main']\n"
        f"sys.exit(main(Path({str(ROOT / 'requirements' / 'build.txt')!r})))"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == exit_code, done.stderr
    called = calls.read_text().splitlines()
    assert [line.partition(" ")[0] for line in called] == who
    assert all("--require-hashes --no-deps --only-binary :all:" in line for line in called)
    assert ("no such file" in done.stdout) is (exit_code != 0)  # what failed is said


def _script(path: Path, content: str) -> None:
    path.write_text(f"#!/bin/sh\n{content}\n")
    path.chmod(0o755)
