"""Plans: what they cost, and what is charged for them.

- `pricing`: what a plan costs, and for which days. Pure.
- `schedule`: when the charging run is due. Pure.
- `services`: what the use of a service costs a user, and charging it.
- `due`: what falls due of a user's subscriptions up to a day. Pure.
- `history`: balances, activations and prices of the past, for `due`.
- `posting`: posts what `due` decides, and stores the subscriptions.
- `forecast`: the next charge, and what is paid ahead.
- `takeover`: subscriptions that ran in another system. Pure.
- `handover`: subscriptions of a duplicate, which go on at the user who is kept.
- `subscriptions`: starting, changing, cancelling and paying for subscriptions.
- `charging`: the run, which charges everything that is due.
"""
