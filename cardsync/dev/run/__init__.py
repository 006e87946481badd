"""``cardsync dev``: all parts on one machine, as processes of one supervisor."""
