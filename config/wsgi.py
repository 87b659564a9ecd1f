"""The web entry point: `gunicorn config.wsgi`."""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("ENVIRONMENT", "production")
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

GUNICORN_APP_LOAD_ERROR = 4  # tells gunicorn's master to stop instead of starting workers for ever

try:
    application = get_wsgi_application()
except ImproperlyConfigured as problem:
    sys.stderr.write(f"Error: {problem}\n")
    sys.exit(GUNICORN_APP_LOAD_ERROR)
