DROP FUNCTION billing_type_allows(
    character varying, character varying, character varying, numeric, numeric, numeric, bigint,
    date, timestamp with time zone, smallint, character varying, bigint);

CREATE OR REPLACE FUNCTION public.billing_type_allows(type character varying, subtype character varying, channel character varying, amount numeric, bonus_amount numeric, new_balance numeric, new_bonus numeric, reverses bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    RETURN (
        greatest(-new_balance, -new_bonus) <= 0  -- NaN is above every number
        AND subtype ~ '^[a-z][a-z0-9_]*$'
        AND channel IN ('panel', 'api', 'charging', 'import', 'system')
        AND CASE type
            -- A payment changes either balance, either way.
            WHEN 'payment' THEN
                reverses IS NULL
            -- A bonus refill adds to the bonus only.
            WHEN 'bonus_charge' THEN
                reverses IS NULL AND amount = 0 AND bonus_amount > 0
            -- What is left of a grant, when it expires.
            WHEN 'bonus_expiry' THEN
                reverses IS NULL AND amount = 0 AND bonus_amount < 0
            -- A subscription never touches the bonus. It takes; only a remainder gives back.
            WHEN 'main_charge' THEN
                reverses IS NULL AND bonus_amount = 0 AND (amount > 0) = (subtype = 'remainder')
            -- A service takes the bonus first, and real money once no bonus is left.
            WHEN 'tariff_charge' THEN
                reverses IS NULL AND bonus_amount <= 0
                AND (amount = 0 OR amount < 0 AND new_bonus = 0)
            -- A reversal, and nothing else, names what it reverses: the guard compares the two.
            WHEN 'reversal' THEN
                reverses IS NOT NULL
        END
    ) IS TRUE;
END
$function$;

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

CREATE OR REPLACE FUNCTION public.billing_write(pending public.billing_transaction[], given public.billing_grant[], uses public.billing_grantuse[])
 RETURNS void
 LANGUAGE plpgsql
AS $function$
BEGIN
    INSERT INTO billing_transaction SELECT * FROM unnest(pending);
    IF given IS NOT NULL THEN
        INSERT INTO billing_grant (user_id, number, amount, remaining, uses, expires_at)
        SELECT g.user_id, g.number, g.amount, g.remaining, g.uses, g.expires_at
        FROM unnest(given) g;
    END IF;
    IF uses IS NOT NULL THEN
        INSERT INTO billing_grantuse SELECT * FROM unnest(uses);
    END IF;
END
$function$;

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

REVOKE ALL ON FUNCTION billing_type_allows(
    character varying, character varying, character varying, numeric, numeric, numeric, numeric,
    bigint) FROM PUBLIC;
