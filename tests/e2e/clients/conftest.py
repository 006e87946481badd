"""The shipped proxy before the module's system."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cardsync.dev.servers.ports import free_port
from tests.e2e.nginx import Nginx
from tests.e2e.system import System


@pytest.fixture(scope="module")
def proxy(module_system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the shipped proxy before the system's web."""
    folder = tmp_path_factory.mktemp("proxy")
    made = Nginx(folder / "nginx", "nginx", port=free_port(), application=module_system.port)
    yield f"http://127.0.0.1:{made.start().port}"
    made.stop()
