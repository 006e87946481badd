"""Settings of the peer: what the view needs, and nothing that would slow it.

In its favour: no middleware, no logging below WARNING (the view logs each payload at INFO), database connections that stay
open, one key to try.
"""

import os

SECRET_KEY = "bench-only-0001"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "benchmarks.django_peer.urls"
WSGI_APPLICATION = "benchmarks.django_peer.wsgi.application"
INSTALLED_APPS = ["ottu.contrib.django"]
MIDDLEWARE: list[str] = []
USE_TZ = True
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PEER_HOST"],
        "PORT": os.environ["PEER_PORT"],
        "NAME": os.environ["PEER_DATABASE"],
        "USER": os.environ["PEER_USER"],
        "PASSWORD": os.environ["PEER_PASSWORD"],
        "CONN_MAX_AGE": None,
    }
}
LOGGING_CONFIG = None
OTTU_MERCHANT_ID = "bench.ottu.invalid"
OTTU_AUTH: dict[str, str] = {}  # for calls to Ottu, of which the view makes none
OTTU_WEBHOOK_KEY = os.environ["PEER_WEBHOOK_KEY"]
OTTU_IS_SANDBOX = True
