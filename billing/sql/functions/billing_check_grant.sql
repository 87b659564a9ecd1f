-- Guard of billing_grant: a grant is what a transaction added to the bonus balance, only uses change
-- what remains of it, and only a recorded operation changes its expiry.
CREATE OR REPLACE FUNCTION public.billing_check_grant()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM FROM billing_transaction t JOIN billing_balance b ON b.user_id = t.user_id
        WHERE t.user_id = NEW.user_id AND t.number = NEW.number
            AND NEW.amount > 0 AND NEW.remaining = NEW.amount AND NEW.uses = 0
            AND (t.number > b.grants_since AND t.bonus_amount = NEW.amount
                    AND NEW.expires_at IS NOT DISTINCT FROM t.bonus_expires_at
                OR t.number = b.grants_since AND t.new_bonus = NEW.amount
                    AND NEW.expires_at IS NULL)
            AND NOT EXISTS (
                SELECT FROM billing_grantuse u
                WHERE u.user_id = NEW.user_id AND u.number = NEW.number
            );
    ELSIF NEW.uses = OLD.uses + 1 THEN
        PERFORM FROM billing_grantuse u
        WHERE u.user_id = NEW.user_id AND u.grant_number = NEW.number AND u.place = NEW.uses
            AND u.remaining = NEW.remaining AND OLD.remaining - u.amount = NEW.remaining
            AND NEW.user_id = OLD.user_id AND NEW.number = OLD.number AND NEW.amount = OLD.amount
            AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at;
    ELSE
        PERFORM FROM (
            SELECT e.action, e.data FROM billing_event e
            WHERE e.subject = 'user' AND e.subject_id = NEW.user_id ORDER BY e.number DESC LIMIT 1
        ) last
        WHERE (NEW.user_id, NEW.number, NEW.amount, NEW.remaining, NEW.uses)
                = (OLD.user_id, OLD.number, OLD.amount, OLD.remaining, OLD.uses)
            AND last.action = 'grant_expiry_changed'
            AND (last.data ->> 'number')::bigint = NEW.number
            AND (last.data ->> 'after')::timestamptz IS NOT DISTINCT FROM NEW.expires_at;
    END IF;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Grant % of user % does not match the transactions.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Grants change with a transaction only: billing.ledger.';
    END IF;
    RETURN NULL;
END
$function$;
