"""The webhook: from bytes on the wire to a durable hint and an answer. On the event loop nothing blocks; two seconds at most."""
