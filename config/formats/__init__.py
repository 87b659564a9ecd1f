"""The format of dates on all pages: 2026-11-28, which everybody reads the same way."""
