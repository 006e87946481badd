"""The web (``api``) on a database of unusual defaults."""

from tests.web.conftest import app, bearer, bells, client, make_app, make_settings
from tests.web.test_api import *  # noqa: F403

__all__ = ["app", "bearer", "bells", "client", "make_app", "make_settings"]
