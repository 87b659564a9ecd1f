-- What the first text of migration 0005 made otherwise than the present one.
ALTER TABLE billing_subscription
    DROP CONSTRAINT charged_days_have_a_beginning_and_an_end,
    ADD CONSTRAINT charged_days_have_a_beginning_and_an_end CHECK (
        (charged_from IS NULL AND charged_through IS NULL) OR charged_from <= charged_through
    ),
    RESET (fillfactor);
DROP INDEX subscriptions_of_a_user;
CREATE INDEX subscription_due ON billing_subscription (user_id, due_on);
