-- Functions of the guards that billing/models/plans.py declares.

-- Guard of billing_service: transactions know a service by its code.
CREATE FUNCTION billing_refuse_other_code() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.code <> OLD.code THEN
        RAISE EXCEPTION 'A service keeps its code.'
            USING ERRCODE = 'BL002', HINT = 'Retire the service, and add another.';
    END IF;
    RETURN NEW;
END
$$;

-- Guard of billing_plan: what was paid for, and until when, was reckoned by the cycle.
CREATE FUNCTION billing_refuse_other_cycle() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF NEW.cycle <> OLD.cycle
        AND EXISTS (SELECT FROM billing_subscription s WHERE s.plan_id = NEW.id)
    THEN
        RAISE EXCEPTION 'A plan in use keeps its billing cycle.'
            USING ERRCODE = 'BL002', HINT = 'Retire the plan, and add another.';
    END IF;
    RETURN NEW;
END
$$;
