"""Triggers that keep the ledger's promises inside the database, whoever writes to it.

They are declared at the models with django-pgtrigger, which installs them and notices when they
are missing; their functions are in `billing/sql/`. What breaks without each of them:

| trigger | on | without it |
|---|---|---|
| `append_only` | transactions, events | history can be edited, deleted or truncated (G3) |
| `follows` | transactions, events | a row can be inserted that continues no chain (G2, G9) |
| `never_removed` | balances | a user's balance row can be deleted |
| `matches_last_transaction` | balances | a balance can change without a transaction (G1) |
| `append_only` | activations, plan terms | late runs charge what nobody owes |
| `keeps_its_code` | services | transactions lose the name of their service |
| `keeps_its_cycle` | plans | what is paid was reckoned by another cycle than the plan has |
| `billing_open_balance` | users | a user created with SQL has no balance |
| `billing_resume_after_refill` | balances | what a refill could pay for waits for the next run |
| `billing_resume_after_activation` | users | subscriptions of an activated user wait for it |
| `billing_note_activation` | users | nobody knows later when a user was deactivated |
| `billing_note_terms` | plans | nobody knows later what a plan cost |
| `billing_tell_of_transactions` | transactions | webhooks tell of no transaction |
| `billing_tell_of_subscription` | subscriptions | webhooks tell of no suspension |
| `billing_end_sessions` | users | logins to the Panel API outlive a change of password |

The last eight are installed by migrations alone: four stand on the users' table, and `users` knows
nothing of `billing`; the others guard nothing, but queue jobs and note what happened.
"""

from typing import Any

import pgtrigger


class Guard(pgtrigger.Trigger):
    """A trigger that calls a function of ours from `billing/sql/`.

    pgtrigger's own function bodies can be switched off by any session with
    `SET pgtrigger.ignore`; and they look that up, in a subtransaction, for every row. A guard of
    money needs neither.
    """

    func = "RETURN NULL;"  # of the function pgtrigger makes, which nothing calls

    def __init__(self, *, executes: str, **options: Any) -> None:
        self.executes = executes
        super().__init__(**options)

    def render_execute(self, model: Any) -> str:
        return f"{self.executes}()"


def refuses(name: str, operation: pgtrigger.core.Operation, *, executes: str) -> Guard:
    """Refuses whole statements, also those that would touch no row."""
    return Guard(
        name=name,
        level=pgtrigger.Statement,
        when=pgtrigger.Before,
        operation=operation,
        executes=executes,
    )


def checked_at_commit(name: str, operation: pgtrigger.core.Operation, *, executes: str) -> Guard:
    """Checks each written row when its transaction commits (SET CONSTRAINTS can do it sooner)."""
    return Guard(
        name=name,
        when=pgtrigger.After,
        operation=operation,
        timing=pgtrigger.Deferred,
        executes=executes,
    )
