"""The application that is fuzzed, as the web's own tests have it."""

from tests.web.conftest import app, bearer, bells, client, make_app, make_settings, patient, way_in

__all__ = ["app", "bearer", "bells", "client", "make_app", "make_settings", "patient", "way_in"]
