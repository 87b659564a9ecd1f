"""Demo data: a made-up company that tracks vehicles, with its customers and their money.

| module | what it does |
|---|---|
| `people` | makes up the customers and operators |
| `catalogue` | has the services and plans that the company sells |
| `accounts` | has a customer and the staff as the story sees them |
| `story` | makes up the history of their money, day by day; pure |
| `journal` | writes the story's operations and keeps the balances; pure |
| `dealings` | makes up services, payments, gifts and corrections; pure |
| `subscribing` | makes up how subscriptions start, change and end; pure |
| `contracts` | keeps the subscriptions by the real rules; pure until it is saved |
| `company` | puts these together: `manage.py seed_demo` loads it |

`billing.operations.history` writes the made-up history, as it does the history of another system.
"""
