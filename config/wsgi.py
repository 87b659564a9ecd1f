"""The web entry point: `gunicorn config.wsgi`."""

import os
import sys

import django
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.utils.module_loading import import_string

from billing import counters
from users.database import WEB, limit_waits

os.environ.setdefault("ENVIRONMENT", "production")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

GUNICORN_APP_LOAD_ERROR = 4  # tells gunicorn's master to stop instead of starting workers for ever

limit_waits(WEB)
try:
    django.setup()  # with the prefix, which what is made now may keep: addresses of static files
    application = get_wsgi_application()
    counters.keep_in(settings.METRICS_DIR)
    application.request_class = import_string(settings.REQUEST_CLASS)
    # Gunicorn would read the prefix too, and fail where an address lacks it: that of a probe, or
    # any behind a proxy that takes it off. Requests take it off (config/requests.py).
    os.environ.pop("SCRIPT_NAME", None)
except ImproperlyConfigured as problem:
    sys.stderr.write(f"Error: {problem}\n")
    sys.exit(GUNICORN_APP_LOAD_ERROR)
