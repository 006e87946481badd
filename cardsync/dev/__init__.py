"""For development and tests only: embedded PostgreSQL and Valkey, and a stand-in for Ottu.

Nothing that serves a merchant imports this package, and what only it needs is the extra ``cardsync[dev]``.
"""
