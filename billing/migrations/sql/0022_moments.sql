-- Keeps the moments that a late charging run has to know (billing/models/moments.py).

-- When users were activated and deactivated. Before the first row of a user, the user was the
-- opposite of what it says; so users who are there already need no rows.
CREATE FUNCTION billing_note_activation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET jit = off
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO billing_activation (user_id, is_active) VALUES (NEW.id, NEW.is_active);
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_note_activation AFTER UPDATE OF is_active ON users_user
    FOR EACH ROW WHEN (NEW.is_active <> OLD.is_active)
    EXECUTE FUNCTION billing_note_activation();

-- What plans cost when. The plans that are there already begin with what they cost now.
CREATE FUNCTION billing_note_terms() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET jit = off
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    INSERT INTO billing_planterms (plan_id, price, proportional_charge)
    VALUES (NEW.id, NEW.price, NEW.proportional_charge);
    RETURN NULL;
END
$$;

INSERT INTO billing_planterms (plan_id, price, proportional_charge)
SELECT id, price, proportional_charge FROM billing_plan ORDER BY id;

CREATE TRIGGER billing_note_terms_of_new_plan AFTER INSERT ON billing_plan
    FOR EACH ROW EXECUTE FUNCTION billing_note_terms();

CREATE TRIGGER billing_note_terms AFTER UPDATE OF price, proportional_charge ON billing_plan
    FOR EACH ROW WHEN (
        NEW.price <> OLD.price OR NEW.proportional_charge <> OLD.proportional_charge
    )
    EXECUTE FUNCTION billing_note_terms();

-- Subscriptions that are there already: added on the day that they started on. One that is
-- suspended is so because of the user's deactivation, or for want of money. The user of today
-- answers most of it. Of an active user's, money was not in the way if there is enough for a full
-- period and nothing came in since: then the user was deactivated, and waits for the next run.
UPDATE billing_subscription SET created_at = started_on::timestamp AT TIME ZONE 'UTC';

UPDATE billing_subscription s
SET suspended_at = s.status_since::timestamp AT TIME ZONE 'UTC' + interval '5 minutes',
    suspension_reason = CASE
        WHEN NOT u.is_active THEN 'user_deactivated'
        WHEN b.real >= p.price AND NOT EXISTS (
            SELECT FROM billing_transaction t
            WHERE t.user_id = s.user_id AND t.amount > 0
                AND t.created_at >= s.status_since::timestamp AT TIME ZONE 'UTC'
        ) THEN 'user_deactivated'
        ELSE 'no_money'
    END
FROM users_user u, billing_balance b, billing_plan p
WHERE s.status = 'suspended'
    AND u.id = s.user_id AND b.user_id = s.user_id AND p.id = s.plan_id;

-- Days reported so far: in time.
UPDATE billing_activeday SET reported_at = day::timestamp AT TIME ZONE 'UTC';

REVOKE ALL ON FUNCTION billing_note_activation(), billing_note_terms() FROM PUBLIC;
