"""Deletions: requests, the transitions of their state machine, their receipts, and erasures of a whole person."""
