"""Calls to Ottu: whether one may be made now (the gate), how many were made (ledger, budget). All of it under the gate's row."""
