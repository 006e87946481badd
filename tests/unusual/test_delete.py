"""The story ``delete`` on a database of unusual defaults."""

from tests.stories.conftest import bound_factories, shop
from tests.stories.test_delete import *  # noqa: F403
from tests.stories.test_delete_afterwards import *  # noqa: F403
from tests.stories.test_delete_order import *  # noqa: F403
from tests.stories.test_delete_trouble import *  # noqa: F403

__all__ = ["bound_factories", "shop"]
