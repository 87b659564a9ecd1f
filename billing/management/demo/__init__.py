"""Demo data: a made-up company that tracks vehicles, with its customers and their money.

| module | what it does |
|---|---|
| `people` | makes up the customers and operators |
| `catalogue` | the services and plans that it sells |
| `story` | makes up what happened to their money; pure |
| `contracts` | keeps their subscriptions meanwhile, by the real rules; pure until it is saved |
| `bulk` | writes a history into the ledger's tables, fast |
| `company` | puts these together: what `manage.py seed_demo` loads |

A benchmark that wants a long history of users it has made calls
`bulk.load(story.tell(accounts, …), expected=…)`, or `bulk.load` with operations of its own.
"""
