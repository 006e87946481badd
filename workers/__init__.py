"""The Celery side: the app, the tasks, the bells, the one beat that leads. Thin: the stories stand in ``cardsync``.

The database holds the work; a message here only says that there is some. Losing every message costs seconds.
"""
