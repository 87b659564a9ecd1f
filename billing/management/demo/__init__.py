"""Demo data: a made-up company that tracks vehicles, with its customers and their money.

| module | what it does |
|---|---|
| `people` | makes up the customers and operators |
| `catalogue` | the services and plans that it sells |
| `story` | makes up what happened to their money; pure |
| `contracts` | keeps their subscriptions meanwhile, by the real rules; pure until it is saved |
| `company` | puts these together: what `manage.py seed_demo` loads |

What is made up is written by `billing.operations.history`, as the history of another system is.
"""
