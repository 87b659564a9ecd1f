-- Guard of billing_balance: a balance is what the user's last transaction left, and zero without
-- one. Each state of the row must match the transaction of its number, and numbers never go back.
-- The guard of billing_transaction checks that no transaction has a higher number.
CREATE OR REPLACE FUNCTION public.billing_check_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    is_right boolean;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.user_id <> OLD.user_id THEN
        RAISE EXCEPTION 'A balance stays with its user.' USING ERRCODE = 'BL002';
    END IF;
    PERFORM FROM billing_transaction t
    WHERE t.user_id = NEW.user_id AND t.number = NEW.last_number
        AND t.new_balance = NEW.real AND t.new_bonus = NEW.bonus
        AND t.refilled = NEW.refilled AND t.bonus_refilled = NEW.bonus_refilled
        AND t.digest = NEW.last_digest AND t.created_at = NEW.last_at;
    is_right := FOUND;
    IF NOT is_right THEN
        is_right := NEW.last_number = 0 AND NEW.real = 0 AND NEW.bonus = 0 AND NEW.refilled = 0
            AND NEW.bonus_refilled = 0 AND NEW.last_digest = '' AND NEW.last_at IS NULL;
    END IF;
    -- Grants begin with the first transaction, or after a history that was imported as one.
    IF TG_OP = 'UPDATE' THEN
        is_right := is_right AND NEW.last_number >= OLD.last_number
            AND (NEW.grants_since = OLD.grants_since
                OR OLD.last_number = 0 AND NEW.grants_since = NEW.last_number);
    ELSE
        is_right := is_right AND NEW.grants_since IN (0, NEW.last_number);
    END IF;
    IF is_right IS NOT TRUE THEN
        RAISE EXCEPTION 'The balance of user % does not match the last transaction.', NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Balances change with a transaction only: billing.ledger.change_balance.';
    END IF;
    RETURN NULL;
END
$function$;
