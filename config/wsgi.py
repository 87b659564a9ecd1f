"""The web entry point: `gunicorn config.wsgi`."""

import os
import sys

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver
from django.utils.module_loading import import_string

from billing import counters
from users.database import WEB, limit_waits

os.environ.setdefault("ENVIRONMENT", "production")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

GUNICORN_APP_LOAD_ERROR = 4  # makes gunicorn stop; otherwise it would keep starting workers

limit_waits(WEB)
try:
    django.setup()  # sets the prefix, before any object can keep an address without it
    application = get_wsgi_application()
    get_resolver().url_patterns  # noqa: B018 - loads the pages now, not with the first request
    counters.keep_in(settings.METRICS_DIR)
    application.request_class = import_string(settings.REQUEST_CLASS)
    # Gunicorn would read the prefix too, and fail for addresses without it: those of probes, and
    # all behind a proxy that removes it. config/requests.py removes the prefix instead.
    os.environ.pop("SCRIPT_NAME", None)
except ImproperlyConfigured as problem:
    sys.stderr.write(f"Error: {problem}\n")
    sys.exit(GUNICORN_APP_LOAD_ERROR)
