-- Guard of billing_grantuse: moves the grant that a use takes from, and refuses a use that does not
-- continue the grant's uses or that its transaction does not account for.
CREATE OR REPLACE FUNCTION public.billing_use_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    UPDATE billing_grant g SET remaining = NEW.remaining, uses = NEW.place
    WHERE g.user_id = NEW.user_id AND g.number = NEW.grant_number
        AND g.uses = NEW.place - 1 AND g.remaining - NEW.amount = NEW.remaining;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Use % of grant % of user % does not follow the one before it.',
                NEW.place, NEW.grant_number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Grants are used by transactions only: billing.ledger.';
    END IF;
    PERFORM FROM billing_transaction t JOIN billing_balance b ON b.user_id = t.user_id
    WHERE t.user_id = NEW.user_id AND t.number = NEW.number AND t.number > b.grants_since
        AND t.number > NEW.grant_number AND t.form = 2
        AND sign(t.bonus_amount) = -sign(NEW.amount)
        AND t.bonus_amount = -(
            SELECT sum(u.amount) FROM billing_grantuse u
            WHERE u.user_id = NEW.user_id AND u.number = NEW.number
        );
    IF NOT FOUND THEN
        RAISE EXCEPTION 'The uses of transaction % of user % are not what it took.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002';
    END IF;
    RETURN NULL;
END
$function$;
