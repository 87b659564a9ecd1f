"""The Panel-API-compatible face of the Billing API, `/v2/panel/`.

Programs written for Navixy's Panel API only change the base address. `docs/panel-api.md` says which
calls exist here and what differs. This package has no rules of money: it calls operations.
"""
