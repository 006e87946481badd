"""Certificates of the tests' own authority, and a server that ends TLS in front of another one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BLOCK: Final = 65_536
SECONDS: Final = 60
SSL_REQUEST: Final = struct.pack("!II", 8, 80877103)  # postgresql.org/docs/current/protocol-message-formats.html


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA in a folder; ``file`` is its certificate."""

    folder: Path
    name: str

    @property
    def file(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @classmethod
    def make(cls, folder: Path, name: str = "ca") -> Authority:
        made = cls(folder, name)
        _openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name} of the tests",
                 "-keyout", folder / f"{name}.key", "-out", made.file)  # fmt: skip
        return made

    def certificate(self, host: str) -> tuple[Path, Path]:
        """A certificate for ``host``, and its key."""
        kind = "IP" if host[0].isdigit() else "DNS"
        stem = self.folder / f"{self.name}-{host}"
        key, request, made, names = (stem.with_name(f"{stem.name}.{end}") for end in ("key", "csr", "crt", "ext"))
        names.write_text(f"subjectAltName={kind}:{host}\n")
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=a server", "-keyout", key, "-out", request)
        _openssl("x509", "-req", "-in", request, "-CA", self.file, "-CAkey", self.folder / f"{self.name}.key",
                 "-CAcreateserial", "-days", "2", "-extfile", names, "-out", made)  # fmt: skip
        return made, key


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=300)


@dataclass
class TlsServer:
    """Speaks TLS with a certificate, and hands on what comes to ``target``; ``heard`` is what clients said inside.

    With ``for_postgres`` a client asks for TLS first, as PostgreSQL's do.
    """

    target: tuple[str, int]
    certificate: tuple[Path, Path]
    for_postgres: bool = False
    heard: bytearray = field(default_factory=bytearray)

    @contextlib.contextmanager
    def run(self) -> Iterator[int]:
        """Serve on a port of 127.0.0.1, which is yielded."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=self._accept, args=(listener, context), daemon=True).start()
            yield listener.getsockname()[1]

    def _accept(self, listener: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client, context), daemon=True).start()

    def _serve(self, client: socket.socket, context: ssl.SSLContext) -> None:
        with contextlib.suppress(OSError):
            client.settimeout(SECONDS)
            if self.for_postgres:
                assert client.recv(len(SSL_REQUEST), socket.MSG_WAITALL) == SSL_REQUEST
                client.sendall(b"S")
            inside = context.wrap_socket(client, server_side=True)
            inside.settimeout(None)
            outside = socket.create_connection(self.target, timeout=SECONDS)
            outside.settimeout(None)
            threading.Thread(target=_copy, args=(outside, inside, None), daemon=True).start()
            _copy(inside, outside, self.heard)


def _copy(source: socket.socket, sink: socket.socket, heard: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(BLOCK):
            if heard is not None:
                heard += block
            sink.sendall(block)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.close()
