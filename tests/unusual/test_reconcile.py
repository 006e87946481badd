"""The story ``reconcile`` on a database of unusual defaults."""

from tests.stories.conftest import bound_factories, shop
from tests.stories.test_reconcile import *  # noqa: F403

__all__ = ["bound_factories", "shop"]
