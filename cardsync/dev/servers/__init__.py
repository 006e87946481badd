"""PostgreSQL and Valkey for ``cardsync dev`` and the tests: find, start and stop them."""
