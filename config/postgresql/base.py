"""Django's PostgreSQL backend (ENGINE = "config.postgresql")."""

from django.db.backends.postgresql import base, features


class DatabaseFeatures(features.DatabaseFeatures):
    # Django 5.2 takes 14. Its check of each new connection says so in one sentence.
    minimum_database_version = (15,)


class DatabaseWrapper(base.DatabaseWrapper):
    features_class = DatabaseFeatures
