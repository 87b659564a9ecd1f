-- Guard of billing_transaction: a row is right by itself, continues the user's previous row and has
-- the right digest,
-- reversals take back no more than the transaction that they reverse, and the balance row has
-- reached at least this number.
CREATE OR REPLACE FUNCTION public.billing_check_transaction()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    used jsonb;
    moved numeric;
BEGIN
    -- By itself. Conditions stand here instead of in constraints where that is enough: PostgreSQL
    -- parses a table's constraints for each statement that writes to it, but a function only once.
    IF (NEW.number >= 1
        AND NEW.new_balance = NEW.old_balance + NEW.amount
        AND NEW.new_bonus = NEW.old_bonus + NEW.bonus_amount
        AND (NEW.amount <> 0 OR NEW.bonus_amount <> 0)
        AND length(btrim(NEW.description)) >= 5
        AND CASE NEW.form
            WHEN 1 THEN num_nonnulls(
                NEW.payment_date, NEW.bonus_expires_at, NEW.reason_id, NEW.batch_id) = 0
            WHEN 2 THEN
                (NEW.payment_date IS NULL
                    OR NEW.type = 'payment' AND NEW.payment_date >= '2000-01-01')
                AND (NEW.bonus_expires_at IS NULL
                    OR NEW.bonus_amount > 0 AND NEW.type IN ('payment', 'bonus_charge'))
                AND (NEW.reason_id IS NULL
                    OR NEW.type IN ('payment', 'bonus_charge', 'reversal'))
        END
    ) IS NOT TRUE THEN
        RAISE EXCEPTION 'Transaction % of user % is wrong by itself.', NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    IF NEW.form = 2 THEN
        SELECT jsonb_agg(jsonb_build_array(u.grant_number::text, u.amount::text) ORDER BY u.line),
            sum(u.amount)
        INTO used, moved
        FROM billing_grantuse u WHERE u.user_id = NEW.user_id AND u.number = NEW.number;
    END IF;
    PERFORM FROM billing_balance balance
    LEFT JOIN billing_transaction previous
        ON previous.user_id = balance.user_id AND previous.number = NEW.number - 1
    WHERE balance.user_id = NEW.user_id AND balance.last_number >= NEW.number
        AND (NEW.number = 1 OR previous.created_at <= NEW.created_at)
        -- Not of the future, which all later ones of the user would have to follow; a day is for
        -- a clock that was set back.
        AND NEW.created_at BETWEEN '2000-01-01Z' AND clock_timestamp() + interval '1 day'
        AND NEW.old_balance = coalesce(previous.new_balance, 0)
        AND NEW.old_bonus = coalesce(previous.new_bonus, 0)
        AND NEW.refilled = coalesce(previous.refilled, 0) + greatest(NEW.amount, 0)
        AND NEW.bonus_refilled
            = coalesce(previous.bonus_refilled, 0) + greatest(NEW.bonus_amount, 0)
        AND NEW.digest = billing_digest(NEW, coalesce(previous.digest, ''), used);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    -- What it adds to the bonus is a grant, or was given back to grants; what it takes comes from
    -- grants.
    IF moved <> -NEW.bonus_amount THEN
        RAISE EXCEPTION 'The uses of transaction % of user % are not what it took.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002';
    END IF;
    IF NEW.bonus_amount <> 0 AND used IS NULL THEN
        PERFORM FROM billing_balance balance WHERE balance.user_id = NEW.user_id AND (
            NEW.number <= balance.grants_since
            OR NEW.bonus_amount > 0 AND EXISTS (
                SELECT FROM billing_grant g
                WHERE g.user_id = NEW.user_id AND g.number = NEW.number
            )
        );
        IF NOT FOUND THEN
            RAISE EXCEPTION 'Transaction % of user % changes the bonus without a grant.',
                    NEW.number, NEW.user_id
                USING ERRCODE = 'BL002';
        END IF;
    END IF;
    IF NEW.type = 'reversal' THEN
        -- Together, the reversals of a transaction take back at most all of it.
        PERFORM FROM billing_transaction original CROSS JOIN LATERAL (
            SELECT sum(r.amount) AS amount, sum(r.bonus_amount) AS bonus_amount
            FROM billing_transaction r
            WHERE r.user_id = NEW.user_id AND r.reverses = NEW.reverses
                AND r.number <= NEW.number
        ) reversed
        WHERE original.user_id = NEW.user_id AND original.number = NEW.reverses
            AND original.number < NEW.number
            AND original.type = NEW.subtype AND original.type NOT IN ('reversal', 'bonus_expiry')
            AND NEW.amount * original.amount <= 0
            AND NEW.bonus_amount * original.bonus_amount <= 0
            AND abs(reversed.amount) <= abs(original.amount)
            AND abs(reversed.bonus_amount) <= abs(original.bonus_amount);
        IF NOT FOUND THEN
            RAISE EXCEPTION 'Transaction % of user % is not the reverse of number %.',
                    NEW.number, NEW.user_id, NEW.reverses
                USING ERRCODE = 'BL002';
        END IF;
    END IF;
    RETURN NULL;
END
$function$;
