"""Which deployment this is: a name that all of its processes find, and no other deployment has.

Two deployments on one broker must not take each other's bells. The name is made from the server's system identifier, which
``initdb`` draws at random, and the database's number there. So a staging database that was restored from production's dump has
a name of its own, and a standby that takes over has its primary's. A name stored in a table would be the same in every copy.
Not told apart: a clone of the whole server (a disk snapshot). Give such a clone a broker, or a virtual host, of its own.
"""

from __future__ import annotations

import hashlib
from typing import Final

from sqlalchemy import Connection, text

LENGTH: Final = 10  # hexadecimal digits: 40 bits tell the few deployments of one broker apart

_IDENTITY = text("""
    SELECT s.system_identifier, d.oid FROM pg_control_system() AS s, pg_database AS d WHERE d.datname = current_database()
""")


def deployment_name(connection: Connection) -> str:
    """The deployment's name: ten hexadecimal digits."""
    row = connection.execute(_IDENTITY).one()
    return hashlib.sha256(f"{row.system_identifier}/{row.oid}".encode()).hexdigest()[:LENGTH]
