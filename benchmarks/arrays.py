"""How customers were imported before COPY: line by line, batches of 10,000 as two arrays. A process of its own.

python benchmarks/arrays.py DATABASE_URL FILE
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import Engine, text

from cardsync import db
from cardsync.core.import_lines import Customer, reader_for

BATCH: Final = 10_000
_ADD = text("""
    INSERT INTO cardsync.customers (environment, customer_id)
    SELECT * FROM unnest(cast(:environments AS text[]), cast(:customer_ids AS text[]))
    ON CONFLICT (environment, customer_id) DO NOTHING
""")


def main(database_url: str, path: str) -> None:
    """Import the file."""
    engine = db.make_engine(database_url, statement_timeout_ms=30_000)
    batch: list[Customer] = []
    with Path(path).open("rb") as file:
        read, _ = reader_for(file.readline().decode())
        while raw := file.readline(65_536):
            batch.append(read(raw.decode("utf-8", "surrogateescape").rstrip("\r\n")))
            if len(batch) >= BATCH:
                _add(engine, batch)
    _add(engine, batch)
    engine.dispose()


def _add(engine: Engine, batch: list[Customer]) -> None:
    if batch:
        pairs = sorted(set(batch))
        with engine.begin() as connection:
            connection.execute(_ADD, {"environments": [p[0] for p in pairs], "customer_ids": [p[1] for p in pairs]})
        batch.clear()


if __name__ == "__main__":
    main(*sys.argv[1:])
