"""The Billing API: for programs. Thin, like the panel: rules of money are the ledger's.

Two faces over the same functions:

- `/api/v1/`, for new integrations (`rest.py` and the modules it puts together),
- `/v2/panel/`, for programs written against Navixy's Panel API (`panel/`).

`requests.py` is what they share: an ID for each request, limits on its size, a line in the log.
"""
