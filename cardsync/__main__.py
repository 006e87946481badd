"""``python -m cardsync``: the same as the command ``cardsync``."""

from cardsync.cli import main

if __name__ == "__main__":  # a process that multiprocessing spawns imports this file too
    main(prog_name="cardsync")
