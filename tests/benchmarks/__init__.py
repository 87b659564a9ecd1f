"""Benchmarks of the ledger, the charging run, the API and the panel: `make benchmark`.

These are not tests: nothing fails because it is slow, and pytest does not collect them. The ways
that are compared take turns, round after round, in one run on one machine. Figures are medians, and
ratios are medians of the ratios within a round. So if the machine is slow for a while, all ways are
slowed down alike.

One process directs (`__main__.py`): it starts a server of each asked-for version of PostgreSQL,
and another process (`measure.py`) for each server. Each part has a fresh database.

    options.py        how much is measured
    clusters.py       servers that are started for the benchmark and thrown away
    database.py       databases, made from a template and dropped
    filled.py         a database with a long history
    machine.py        facts about the machine and the server
    results.py        lines, targets and verdicts; results.json
    page.py           docs/benchmarks.md
    notes.py          what stands in the way of targets, written by people
    progress.py       what a run tells meanwhile

    ways.py           the ways of posting that are compared
    pgledger.py       one of them, if its SQL is at hand
    django_hordak.py  another one, in a process of its own (django_hordak_worker.py)

The parts, one in each file; each yields its lines:

    posting.py  hot.py  instructions.py  http.py  charging.py  size.py  verify.py
    pages.py  export.py  tab.py  growth.py  (visits.py requests the pages)
    earlier.py  (earlier_worker.py measures the code of one checkout)

An implementation that changes what a part calls changes that part here. These depend on more than
the public functions: the columns in `ways.py` and `filled.py`, and the call of `billing_post` in
`instructions.py`.
"""
