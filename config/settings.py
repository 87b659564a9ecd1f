"""All settings of the panel. Every environment variable is read here and nowhere else.

docs/configuration.md lists the variables; a test compares that list with this file.
"""

import os
import re
import secrets
from collections.abc import Collection
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any
from zoneinfo import available_timezones

import environ
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy

from billing.currencies import is_currency
from config import embedded
from config.postgresql.url import settings_from

BASE_DIR = Path(__file__).resolve().parent.parent

env = environ.Env()


# A variable with an empty value counts as not set.


def _choice(name: str, choices: Collection[str], *, default: str) -> str:
    value = env.str(name, default="") or default
    if value not in choices:
        raise ImproperlyConfigured(f"{name} is “{value}”; it must be one of {', '.join(choices)}.")
    return value


def _flag(name: str, *, default: bool) -> bool:
    """Returns a yes-or-no variable. Refuses a misspelt “true”, which would silently count as no."""
    value = _choice(
        name, ("true", "false", "yes", "no", "on", "off", "1", "0"), default=str(default).lower()
    )
    return value in ("true", "yes", "on", "1")


def _number(name: str, *, default: int, lowest: int, highest: int) -> int:
    value = env.str(name, default="") or str(default)
    if not (value.isascii() and value.isdigit() and lowest <= int(value) <= highest):
        raise ImproperlyConfigured(
            f"{name} is “{value}”; it must be a number from {lowest} to {highest}."
        )
    return int(value)


# --- Where it runs ------------------------------------------------------------------------------

# By default commands, tests and `make run` are local, and the web entry point (config/wsgi.py) is
# production. Production needs a SECRET_KEY and answers HTTPS only.
ENVIRONMENT = _choice("ENVIRONMENT", ("local", "production"), default="local")
IS_LOCAL = ENVIRONMENT == "local"

DEBUG = _flag("DEBUG", default=False)
DATA_DIR = Path(env.str("DATA_DIR", default="") or BASE_DIR / "var").resolve()
PORT = _number("PORT", default=8000, lowest=1, highest=65535)


def _local_secret_key() -> str:
    """Returns the secret key of a local panel: made once, and kept in DATA_DIR."""
    path = DATA_DIR / "secret_key"
    try:
        DATA_DIR.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with NamedTemporaryFile("w", dir=DATA_DIR, prefix="secret_key-") as draft:
                draft.write(secrets.token_urlsafe(50))
                draft.flush()
                # A hard link appears with all of its text, and the first of several processes wins.
                with suppress(FileExistsError):
                    path.hardlink_to(draft.name)
        return path.read_text()
    except OSError as problem:
        raise ImproperlyConfigured(
            f"DATA_DIR ({DATA_DIR}) cannot be used: {problem.strerror}."
        ) from None


# Not read with django-environ, which takes a value that begins with $ for another variable's name.
SECRET_KEY = env.ENVIRON.get("SECRET_KEY", "")
if not SECRET_KEY:
    if not IS_LOCAL:
        raise ImproperlyConfigured(
            "SECRET_KEY is not set; in production it must be a long random text that stays "
            "the same, e.g. from: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'"
        )
    SECRET_KEY = _local_secret_key()

# The prefix of all addresses, like /billing, if the panel shares a host with others. A proxy may
# pass it on or remove it.
SCRIPT_NAME = env.str("SCRIPT_NAME", default="").rstrip("/")
OWN_ADDRESSES = ("admin", "api", "v2", "static", "healthz", "readyz", "metrics")
if SCRIPT_NAME and not re.fullmatch(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+", SCRIPT_NAME):
    raise ImproperlyConfigured(f"SCRIPT_NAME is “{SCRIPT_NAME}”; it must be a path like /billing.")
if SCRIPT_NAME and SCRIPT_NAME.split("/")[1] in OWN_ADDRESSES:
    raise ImproperlyConfigured(
        f"SCRIPT_NAME is “{SCRIPT_NAME}”; it must not begin like an address of the panel itself."
    )
FORCE_SCRIPT_NAME = SCRIPT_NAME or None
# So that two panels on one host have separate logins.
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = LANGUAGE_COOKIE_PATH = f"{SCRIPT_NAME}/"

ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["127.0.0.1", "localhost", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# --- Applications -------------------------------------------------------------------------------

INSTALLED_APPS = [
    # First, so that `billing.admin` can unregister its pages, which are made for Django's own look.
    "procrastinate.contrib.django",
    "users",
    "billing",
    "config.site.PanelLook",  # Unfold
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "django.contrib.postgres",
    "ninja",
]

MIDDLEWARE = [
    "config.requests.answer_head_without_a_body",
    "config.health.answer_health_checks",
    "config.metrics.count_requests",
    "config.outages.begin_requests",
    "billing.api.requests.api_requests",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "users.middleware.operator_time_zone",
    "django.contrib.messages.middleware.MessageMiddleware",
    "users.sessions.end_sessions",
    "users.browsers.remember_browser",
    "users.unsent.KeepUnsentForms",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
# Calls of the Billing API pass these after `billing.api.requests.api_requests`, and none of the
# others below it.
API_MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.middleware.gzip.GZipMiddleware",
    "config.policy.send_policy",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
REQUEST_CLASS = "config.requests.Request"  # used by every server of the application

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "OPTIONS": {
            "loaders": [
                (
                    "django.template.loaders.cached.Loader",
                    ["config.templates.FileSystem", "config.templates.AppDirectories"],
                )
            ],
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "users.unsent.unsent_form",
            ],
        },
    }
]

FORM_RENDERER = "config.forms.Renderer"

# --- Database -----------------------------------------------------------------------------------


def _database() -> dict[str, Any]:
    url = env.str("DATABASE_URL", default="")
    database: dict[str, Any] = {}
    if not url:
        database = embedded.database(DATA_DIR)
    else:
        try:
            database = settings_from(url)
        except ValueError:
            raise ImproperlyConfigured(
                "DATABASE_URL must look like postgres://user:password@host:5432/name."
            ) from None
        database["ENGINE"] = "config.postgresql"
        # A host that does not answer, or vanishes later, is reported instead of waited for.
        database["OPTIONS"] = {
            "connect_timeout": 10,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,  # milliseconds
        } | database["OPTIONS"]
    # Connections are kept, and tested before a request uses one again, so that no request fails
    # because the database was restarted. Django sets the time zone of connections to UTC.
    return database | {"CONN_MAX_AGE": 600, "CONN_HEALTH_CHECKS": True}


DATABASES = {"default": _database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- Balance changes ----------------------------------------------------------------------------

# Whether operators have to choose a reason for each balance change.
REASON_REQUIRED = _flag("REASON_REQUIRED", default=False)

# --- Bonus --------------------------------------------------------------------------------------

# The last day of a bonus is so many days after the day on which it is given, unless it is given
# with another one; 0: it never expires.
BONUS_DAYS = _number("BONUS_DAYS", default=0, lowest=0, highest=36_500)

# Webhooks report a gift so many days before it expires (bonus.expiring); 0: they do not.
BONUS_EXPIRING_DAYS = _number("BONUS_EXPIRING_DAYS", default=7, lowest=0, highest=30)

# --- The proof of the ledger --------------------------------------------------------------------

# Signs the heads of the ledger. By default it is made once, in this file.
LEDGER_SIGNING_KEY = env.ENVIRON.get("LEDGER_SIGNING_KEY", "").strip()  # like SECRET_KEY
LEDGER_SIGNING_KEY_FILE = DATA_DIR / "ledger_signing_key"
if LEDGER_SIGNING_KEY and len(LEDGER_SIGNING_KEY) < 32:
    raise ImproperlyConfigured(
        "LEDGER_SIGNING_KEY is too short; it must be a long random text that stays the same, "
        "e.g. from: openssl rand -hex 40"
    )
# The nightly proof writes the heads here.
LEDGER_HEADS_DIR = DATA_DIR / "heads"
# So many stretches of the ledger are checked at the same time, each on a connection of its own.
LEDGER_PROOF_PROCESSES = _number(
    "LEDGER_PROOF_PROCESSES", default=min(os.cpu_count() or 1, 8), lowest=1, highest=64
)

# --- The Billing API ----------------------------------------------------------------------------

# The limit of an API key that has none of its own; 0 means no limit.
API_REQUESTS_PER_MINUTE = _number("API_REQUESTS_PER_MINUTE", default=1200, lowest=0, highest=10**6)

# Origins whose pages may call /v2/panel/ from a browser, like https://shop.example.com.
API_CORS_ORIGINS = env.list("API_CORS_ORIGINS", default=[])

# Logs each call of the API as one line of JSON, at any LOG_LEVEL.
LOG_API_CALLS = _flag("LOG_API_CALLS", default=True)
# Adds the beginning of what was sent and answered, without secrets and personal data.
LOG_API_BODIES = _flag("LOG_API_BODIES", default=False)

# --- Webhooks -----------------------------------------------------------------------------------


def _networks(name: str, written: list[str]) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(network.strip()) for network in written if network.strip())
    except ValueError as problem:
        raise ImproperlyConfigured(
            f"{name}: {problem}; it must be networks like 10.1.0.0/16, separated by commas."
        ) from None


# Private networks that webhooks may be sent to. Everybody who may register endpoints can reach
# everything there, also this machine if it is included.
WEBHOOK_PRIVATE_NETWORKS = _networks(
    "WEBHOOK_PRIVATE_NETWORKS", env.list("WEBHOOK_PRIVATE_NETWORKS", default=[])
)

# --- Import -------------------------------------------------------------------------------------

# Of the Panel API from which `import_history --from-panel-api` downloads; asked for if empty.
PANEL_API_PASSWORD = env.str("PANEL_API_PASSWORD", default="")

# --- Metrics ------------------------------------------------------------------------------------

# /metrics may be read with this bearer token, and from these networks without one.
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
METRICS_NETWORKS = _networks(
    "METRICS_NETWORKS", env.list("METRICS_NETWORKS", default=[]) or ["127.0.0.0/8", "::1/128"]
)
# Processes keep their counts here.
METRICS_DIR = DATA_DIR / "metrics"

# --- Background jobs ----------------------------------------------------------------------------

# For every worker, however it is started; normally that is `manage.py worker`.
PROCRASTINATE_WORKER_DEFAULTS = {
    # Four, so that a refill waits neither for large batches of the charging run nor for webhook
    # endpoints that hang. To use more of the machine, start more workers.
    "concurrency": 4,
    # A worker that is told to end stops its jobs at their next commit; another continues them.
    "shutdown_graceful_timeout": 0,
    # Finished jobs need no record: their results are in the ledger and in the list of runs.
    "delete_jobs": "successful",
}

# One cache per process, for figures that may be some minutes old.
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}

# --- People -------------------------------------------------------------------------------------

AUTH_USER_MODEL = "users.User"
AUTHENTICATION_BACKENDS = ["users.backends.OperatorBackend"]
SILENCED_SYSTEM_CHECKS = [
    # The login is unique by a constraint that ignores case, which this check does not recognise.
    "auth.E003",
    "auth.W004",  # the same, where other backends than Django's own are used
    # The panel cannot know whether all names below its own answer HTTPS, now and in future.
    "security.W005",  # SECURE_HSTS_INCLUDE_SUBDOMAINS
    "security.W021",  # SECURE_HSTS_PRELOAD
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")

# --- Language, time and money -------------------------------------------------------------------

LANGUAGE_CODE = "en"
USE_I18N = True
FORMAT_MODULE_PATH = "config.formats"  # 2026-11-28, on all pages
USE_TZ = True
TIME_ZONE = env.str("TIME_ZONE", default="") or "UTC"
if TIME_ZONE not in available_timezones():
    raise ImproperlyConfigured(f"TIME_ZONE is “{TIME_ZONE}”, which is not a known time zone.")

# The ISO 4217 code of the one currency: decides how amounts are written, and their decimals.
BILLING_CURRENCY = env.str("BILLING_CURRENCY", default="") or "USD"
if not is_currency(BILLING_CURRENCY):
    raise ImproperlyConfigured(
        f"BILLING_CURRENCY is “{BILLING_CURRENCY}”; it must be an ISO 4217 code of a currency that "
        "is in use, in three capitals, like EUR. Nothing was changed: balances are stored without "
        "a currency. Set the right code and start again."
    )

# --- Serving ------------------------------------------------------------------------------------

STATIC_URL = "static/"  # below SCRIPT_NAME
if IS_LOCAL:
    # Served from the source directories: nothing has to be collected, nothing can be out of date.
    STATIC_ROOT = None
    WHITENOISE_USE_FINDERS = True
    static_files = "django.contrib.staticfiles.storage.StaticFilesStorage"
else:
    # Collected once and compressed, under names that change with their content. The files under
    # their plain names are dropped: no page uses them, and compressing takes most of the time.
    STATIC_ROOT = DATA_DIR / "static"
    static_files = "whitenoise.storage.CompressedManifestStaticFilesStorage"
    WHITENOISE_KEEP_ONLY_HASHED_FILES = True
    # Compressed already; .map files are only for debugging the libraries of pages.
    WHITENOISE_SKIP_COMPRESS_EXTENSIONS = ("png", "woff", "woff2", "map")
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": static_files},
}

# The number of proxies in front. Each appends the address that it saw to X-Forwarded-For.
PROXIES = _number("PROXIES", default=0 if IS_LOCAL else 1, lowest=0, highest=10)

# How long an operator stays logged in: at most, and without a request (0: no limit of its own).
SESSION_HOURS = _number("SESSION_HOURS", default=12, lowest=1, highest=24 * 365)
SESSION_IDLE_MINUTES = _number("SESSION_IDLE_MINUTES", default=60, lowest=0, highest=10**6)
SESSION_COOKIE_AGE = SESSION_HOURS * 3600

SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
CSRF_COOKIE_HTTPONLY = False  # Unfold's htmx reads it
if not IS_LOCAL:
    # Behind a proxy that ends TLS and sets X-Forwarded-Proto; see docs/deployment.md.
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    SECURE_SSL_REDIRECT = _flag("SECURE_SSL_REDIRECT", default=True)
    SECURE_HSTS_SECONDS = _number("SECURE_HSTS_SECONDS", default=3600, lowest=0, highest=10**9)
    SESSION_COOKIE_SECURE = True
    CSRF_COOKIE_SECURE = True

# Unfold's Alpine evaluates expressions in attributes, and its widgets set style attributes.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF, UNSAFE_EVAL],
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "frame-ancestors": [NONE],
        "form-action": [SELF],
        "base-uri": [SELF],
    }
}

LOG_LEVEL = _choice(
    "LOG_LEVEL", ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), default="WARNING"
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"},
        "json": {"format": "{message}", "style": "{"},  # structlog has made the JSON
    },
    "filters": {"outages": {"()": "users.database.OneLine"}},
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["outages"],
        },
        "calls": {"class": "logging.StreamHandler", "formatter": "json"},
    },
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        # Without this, with DEBUG off, Django would mail errors to nobody and log none of them.
        "django": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        "billing.api.calls": {
            "handlers": ["calls"],
            "level": "INFO" if LOG_API_CALLS else LOG_LEVEL,
            "propagate": False,
        },
    },
}

# --- The panel's look ---------------------------------------------------------------------------

SITE_NAME = env.str("SITE_NAME", default="") or "Billing"

UNFOLD = {
    "SITE_TITLE": SITE_NAME,
    "SITE_HEADER": SITE_NAME,
    "SITE_SUBHEADER": "Operator panel",
    "SITE_SYMBOL": "payments",
    "SITE_URL": None,
    "SITE_FAVICONS": [
        {
            "rel": "icon",
            "type": "image/svg+xml",
            "href": lambda request: static("billing/favicon.svg"),
        }
    ],
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "8px",
    "STYLES": [lambda request: static("billing/panel.css")],
    "SCRIPTS": [lambda request: static("billing/panel.js")],
    "DASHBOARD_CALLBACK": "billing.admin.start_page.start_page_context",
    "COLORS": {
        "primary": {
            "50": "oklch(97% .014 254.604)",
            "100": "oklch(93.2% .032 255.585)",
            "200": "oklch(88.2% .059 254.128)",
            "300": "oklch(80.9% .105 251.813)",
            "400": "oklch(70.7% .165 254.624)",
            "500": "oklch(62.3% .214 259.815)",
            "600": "oklch(54.6% .245 262.881)",
            "700": "oklch(48.8% .243 264.376)",
            "800": "oklch(42.4% .199 265.638)",
            "900": "oklch(37.9% .146 265.522)",
            "950": "oklch(28.2% .091 267.935)",
        },
    },
    "ACCOUNT": {"navigation": "billing.admin.navigation.account_links"},
    "SITE_VIEWS": [
        ("my-time-zone/", "my_time_zone", "users.admin.my_time_zone.MyTimeZoneView"),
    ],
    "COMMAND": {"search_models": False},
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": "billing.admin.navigation.sidebar",
    },
    "TABS": "billing.admin.navigation.tabs",
}
