"""Benchmarks of the ledger, the charging run, the API and the Transactions tab: `make benchmark`.

These are not tests: nothing fails because it is slow, and pytest does not collect them. The ways
that are compared take turns, round after round, in one run on one machine. Figures are medians, and
ratios are medians of the ratios within a round. So if the machine is slow for a while, all ways are
slowed down alike.

    database.py   the benchmark's own database, made and dropped
    ways.py       the ways of posting that are compared
    posting.py    single changes, hot rows, batches
    charging.py   runs over many subscriptions that are due at once
    api.py        balance changes and pages over HTTP
    tab.py        pages of the Transactions tab of a long history
    report.py     the table
"""
