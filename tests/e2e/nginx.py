"""The shipped proxy as it is, on a port of the test's own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import httpx
import pytest

from cardsync.dev.servers.ports import free_port
from tests.waiting import until

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "nginx"
SHIPPED_RATE: Final = "zone=reads:10m rate=50r/s"
PROGRAM: Final = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


class Nginx:
    """One of the two configurations, with the places and ports of this test in it; ``application`` is the web's port.

    ``certificate`` and ``key`` are for the host's one, which speaks TLS alone, and to ``console`` under another name.
    ``installed`` is where a copy of it was put, in place of the shipped one.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        *,
        port: int,
        application: int,
        certificate: Path | None = None,
        key: Path | None = None,
        console: int | None = None,
        installed: Path | None = None,
    ) -> None:
        if PROGRAM is None:
            reason = "no nginx is installed (Debian: apt-get install nginx)"
            if os.environ.get("CARDSYNC_REQUIRE_SERVICES") == "1":
                pytest.fail(reason)
            pytest.skip(reason)
        self.folder, self.port, self.console_port = folder, port, free_port()
        config = installed or FOLDER / f"{kind}.conf"
        shutil.copytree(config.parent / "cardsync", folder / "cardsync")
        text = config.read_text(encoding="utf-8")
        text = text.replace("/tmp/", f"{folder}/")  # noqa: S108  (the container's)
        for shipped, ours in (
            ("user www-data;", "user root;" if os.getuid() == 0 else ""),
            ("worker_processes 2;", "worker_processes 1;"),
            ("worker_rlimit_nofile 16384;", ""),
            ("worker_connections 4096;", "worker_connections 256;"),
            ("pid /run/nginx.pid;", f"pid {folder}/pid;"),
            ("/var/log/nginx/", f"{folder}/"),
            ("/dev/stdout", f"{folder}/cardsync.log"),
            ("stderr crit", f"{folder}/error.log crit"),
            ("127.0.0.1:8000", f"127.0.0.1:{application}"),
            ("127.0.0.1:8001", f"127.0.0.1:{console or application}"),
            ("http://app:8000", f"http://127.0.0.1:{application}"),
            ("http://console:8001", f"http://127.0.0.1:{application}"),
            ("listen 8082;", f"listen 127.0.0.1:{self.console_port};"),
            ("listen 127.0.0.1:8081;", f"listen 127.0.0.1:{free_port()};"),
            ("include /etc/nginx/listen.conf;", f"listen 127.0.0.1:{port};"),
            ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
            ("listen [::]:80;", ""),
            ("listen 443 ssl;", f"listen 127.0.0.1:{port} ssl;"),
            ("listen [::]:443 ssl;", ""),
            ("/etc/cardsync/tls/certificate", str(certificate)),
            ("/etc/cardsync/tls/key", str(key)),
        ):
            text = text.replace(shipped, ours)
        if kind == "nginx" and os.getuid() == 0:  # the container runs all of it as one user
            text = f"user root;\n{text}"
        if kind == "host":  # Debian's paths for what waits on disk belong to root
            places = "".join(
                f"{n}_temp_path {folder}/{n};" for n in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            text = text.replace("include cardsync/http.conf;", f"{places} include cardsync/http.conf;")
        self._config = folder / "nginx.conf"
        self._config.write_text(text, encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def lower_the_rate(self) -> None:
        """Let readers ask once a second, beyond the shipped burst: a busy machine may ask no faster than the shipped rate."""
        limits = self.folder / "cardsync" / "http.conf"
        shipped = limits.read_text(encoding="utf-8")
        assert SHIPPED_RATE in shipped
        limits.write_text(shipped.replace(SHIPPED_RATE, "zone=reads:10m rate=1r/s"), encoding="utf-8")

    def check(self) -> str:
        """What ``nginx -t`` finds."""
        done = self._run("-t")
        return (done.stdout + done.stderr).decode()

    def start(self) -> Nginx:
        """Start it, and wait until its port is open."""
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [
                PROGRAM,
                "-e",
                str(self.folder / "early.log"),
                "-p",
                str(self.folder),
                "-c",
                str(self._config),
                "-g",
                "daemon off;",
            ]
        )
        until(self._answers, "the proxy answers")
        return self

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)

    def log(self) -> str:
        """Its lines about requests."""
        return (self.folder / "cardsync.log").read_text(encoding="utf-8")

    def _run(self, *options: str) -> subprocess.CompletedProcess[bytes]:
        assert PROGRAM is not None
        early = str(self.folder / "early.log")
        return subprocess.run(
            [PROGRAM, "-e", early, "-p", str(self.folder), "-c", str(self._config), *options],
            capture_output=True,
            check=False,
            timeout=120,
        )

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "early.log").read_text()
        try:
            httpx.get(f"https://127.0.0.1:{self.port}/nothing", verify=False, trust_env=False, timeout=30)  # noqa: S501
        except httpx.ConnectError as error:
            return "refused" not in str(error)
        return True
