"""All SQL. Every function takes an open connection, inside the caller's transaction, and never commits.

What leaves this room is a frozen dataclass or a plain value, never a row. Writes that settle something stand under a
guard (``WHERE id AND state``); that no row matched is an outcome with a name.

Locks are taken in one order: customers (by code point), their hints and cards, the gate, the feed's head.
"""
