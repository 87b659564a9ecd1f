"""The Billing API: what programs call. It calls operations and has no rules of money.

It has two faces over the same functions:

- `/api/v1/`, for new integrations (`rest.py` and the modules that it combines),
- `/v2/panel/`, for programs written against Navixy's Panel API (`panel/`).

They share `requests.py`: an ID for each request, limits on its size, a line in the log.
"""
