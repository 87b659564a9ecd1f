-- Guard of billing_transaction, at commit: the balance row has reached at least this number, what
-- changes the bonus is a grant or accounts for its uses of grants, and reversals take back no more
-- than the transaction that they reverse.
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
    PERFORM FROM billing_balance balance
    WHERE balance.user_id = NEW.user_id AND balance.last_number >= NEW.number;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Transaction % of user % does not move the balance.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    IF NEW.bonus_amount = 0 AND NEW.type <> 'reversal' THEN
        RETURN NULL;
    END IF;
    IF NEW.form = 2 AND NEW.bonus_amount <> 0 THEN
        SELECT jsonb_agg(jsonb_build_array(u.grant_number::text, u.amount::text) ORDER BY u.line),
            sum(u.amount)
        INTO used, moved
        FROM billing_grantuse u WHERE u.user_id = NEW.user_id AND u.number = NEW.number;
        IF NEW.digest <> billing_digest(
            NEW,
            coalesce((
                SELECT previous.digest FROM billing_transaction previous
                WHERE previous.user_id = NEW.user_id AND previous.number = NEW.number - 1
            ), ''),
            used
        ) THEN
            RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                    NEW.number, NEW.user_id
                USING ERRCODE = 'BL002', DETAIL = 'It has another digest.',
                      HINT = 'Transactions are posted by billing.ledger only.';
        END IF;
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
