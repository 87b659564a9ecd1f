-- What the second text of migration 0005 made otherwise than the present one.
ALTER TABLE billing_subscription
    DROP CONSTRAINT charged_days_have_a_beginning_and_an_end,
    ADD CONSTRAINT charged_days_have_a_beginning_and_an_end CHECK (
        (charged_from IS NULL AND charged_through IS NULL) OR charged_from <= charged_through
    );
