"""The embedded PostgreSQL: a Django database backend that brings its own server.

`base.py` is the backend (ENGINE = "config.embedded"); `server.py` starts and stops the server.
"""
