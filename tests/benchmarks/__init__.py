"""How fast the ledger and the Transactions tab are: `make benchmark`.

Not tests: nothing here fails for being slow, and pytest does not look here. What is compared runs
in turn, round after round, in one run on one machine; figures are medians, and ratios are medians
of the ratios within a round, so that a machine that is slow for a while is so for all.

    database.py   a database of its own, made and dropped
    ways.py       the ways of posting that are compared
    posting.py    single changes, hot rows, batches
    charging.py   runs over many subscriptions that are due at once
    tab.py        pages of the Transactions tab of a long history
    report.py     the table
"""
