"""The database backend for DATABASE_URL: Django's own, from the version that the ledger needs."""
