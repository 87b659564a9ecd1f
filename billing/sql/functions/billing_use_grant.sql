-- Guard of billing_grantuse: moves the grant that a use takes from, and refuses a use that does not
-- continue the grant's uses or that its transaction does not account for.
CREATE OR REPLACE FUNCTION public.billing_use_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    -- Only for a transaction that the balance has not reached yet: the guard of transactions, which
    -- compares it with the sum of its uses, is still to come.
    UPDATE billing_grant g SET remaining = NEW.remaining, uses = NEW.place
    FROM billing_transaction t, billing_balance b
    WHERE g.user_id = NEW.user_id AND g.number = NEW.grant_number
        AND g.uses = NEW.place - 1 AND g.remaining - NEW.amount = NEW.remaining
        AND NEW.amount <> 0 AND NEW.remaining BETWEEN 0 AND g.amount
        AND t.user_id = NEW.user_id AND t.number = NEW.number AND b.user_id = NEW.user_id
        AND t.number > b.last_number AND t.number > b.grants_since AND t.number > NEW.grant_number
        AND t.form = 2 AND sign(t.bonus_amount) = -sign(NEW.amount);
    IF FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM billing_grant g
    WHERE g.user_id = NEW.user_id AND g.number = NEW.grant_number
        AND g.uses = NEW.place - 1 AND g.remaining - NEW.amount = NEW.remaining
        AND NEW.amount <> 0 AND NEW.remaining BETWEEN 0 AND g.amount;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Use % of grant % of user % does not follow the one before it.',
                NEW.place, NEW.grant_number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Grants are used by transactions only: billing.ledger.';
    END IF;
    RAISE EXCEPTION 'The uses of transaction % of user % are not what it took.',
            NEW.number, NEW.user_id
        USING ERRCODE = 'BL002';
END
$function$;
