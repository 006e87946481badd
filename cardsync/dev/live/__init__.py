"""What ``cardsync dev`` shows while it runs: one line for each thing that happens."""
