"""Plans: what they cost, and what is charged for them.

- `pricing`: what a plan costs, and for which days. Pure.
- `schedule`: when the charging run is due. Pure.
- `services`: what the use of a service costs a user, and charging it.
- `due`: what falls due of a user's subscriptions up to a day. Pure.
- `history`: what `due` asks about days that have passed: balances, activations, prices.
- `subscriptions`: starting, changing, cancelling and paying for subscriptions.
- `charging`: the run, which charges whatever is due.
"""
