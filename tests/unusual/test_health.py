"""The web (``health``) on a database of unusual defaults."""

from tests.web.conftest import app, bearer, bells, client, make_app, make_client, make_settings, way_in
from tests.web.test_health import *  # noqa: F403

__all__ = ["app", "bearer", "bells", "client", "make_app", "make_client", "make_settings", "way_in"]
