"""The database backend for DATABASE_URL: Django's own, with the settings that the panel needs."""
