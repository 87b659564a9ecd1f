"""Transactions and other tables as files."""
