"""The tables of the schema ``cardsync``, as Alembic and the test factories see them; no statement is built from them.

``alembic check`` holds them equal to what the migrations leave. Importing this package brings every table into ``Base.metadata``.
"""

from cardsync.store.schema import agreements, console, deletions, deliveries, erasures, operations, registry
from cardsync.store.schema.registry import Base

__all__ = ["Base", "agreements", "console", "deletions", "deliveries", "erasures", "operations", "registry"]
