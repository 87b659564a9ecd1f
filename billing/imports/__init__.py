"""Histories of other systems: reading them, checking them, and making the ledger's rows of them.

| module | what it does |
|---|---|
| `records` | what a history consists of, and what can be wrong with it |
| `folder` | reads and writes a history as a folder of CSV files |
| `staging` | sorts a history of any size by user |
| `balances` | turns a user's transactions into the ledger's; pure |
| `panel_api` | downloads the history of a Panel API into such a folder |

Nothing here touches the database: `billing.operations.history` writes what is read here.
"""
