"""The stories: one public function each. They own the transactions, and speak to Ottu through ``cardsync.ottu`` alone.

A story that calls Ottu has the shape *ticket, call, apply once*: a short transaction records the intent and takes a number; Ottu
is called with no transaction open; a short transaction applies the answer, only if the ticket still stands.
"""
