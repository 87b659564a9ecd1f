"""The Panel-API-compatible face of the Billing API, `/v2/panel/`.

Programs written against Navixy's Panel API change only the base address. `docs/panel-api.md` says
what of it is here, and what differs. No rule of money is in here: the ledger and the
subscriptions are called as from anywhere else.
"""
