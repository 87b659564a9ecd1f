-- 0005 was edited after it had been applied here and there: whoever applied an earlier text lacks
-- what the later one says. Afterwards every installation has the same, whenever it began.

-- A CHECK takes NULL for consent, which the earlier text did not think of.
ALTER TABLE billing_subscription
    DROP CONSTRAINT IF EXISTS charged_days_have_a_beginning_and_an_end,
    ADD CONSTRAINT charged_days_have_a_beginning_and_an_end CHECK (
        charged_from IS NULL AND charged_through IS NULL
        OR charged_from IS NOT NULL AND charged_from <= charged_through
            AND charged_through IS NOT NULL
    ),
    SET (fillfactor = 50);
DROP INDEX IF EXISTS subscription_due;
CREATE INDEX IF NOT EXISTS subscriptions_of_a_user ON billing_subscription (user_id);
