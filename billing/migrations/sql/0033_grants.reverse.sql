DROP FUNCTION billing_type_allows(
    character varying, character varying, character varying, numeric, numeric, numeric, bigint,
    date, timestamp with time zone, smallint);
DROP FUNCTION billing_digest(billing_transaction, bytea, jsonb);
DROP FUNCTION billing_write(
    billing_transaction[], billing_grant[], billing_grantuse[]);
DROP FUNCTION billing_use_grant();
DROP FUNCTION billing_check_grant();
DROP FUNCTION billing_refuse_rewriting_grants();
DROP FUNCTION billing_expiry(
    billing_balance, billing_grant, timestamp with time zone);
DROP FUNCTION billing_set_expiry(bigint, bigint, timestamp with time zone);

CREATE OR REPLACE FUNCTION public.billing_type_allows(type character varying, subtype character varying, channel character varying, amount numeric, bonus_amount numeric, new_bonus numeric, reverses bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE PARALLEL SAFE
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    RETURN (
        subtype ~ '^[a-z][a-z0-9_]*$'
        AND channel IN ('panel', 'api', 'charging', 'import')
        AND CASE type
            -- A payment changes either balance, either way.
            WHEN 'payment' THEN
                reverses IS NULL
            -- A bonus refill adds to the bonus only.
            WHEN 'bonus_charge' THEN
                reverses IS NULL AND amount = 0 AND bonus_amount > 0
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

CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, previous_digest bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN sha256(convert_to(json_build_array(
        encode(previous_digest, 'hex'),
        t.id::text, t.user_id::text, t.number::text,
        t.type, t.subtype, t.description, t.device,
        t.amount::text, t.old_balance::text, t.new_balance::text,
        t.bonus_amount::text, t.old_bonus::text, t.new_bonus::text,
        t.refilled::text, t.bonus_refilled::text,
        to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        t.actor_id::text, t.channel, t.idempotency_key, t.reverses::text, t.metadata::text
    )::text, 'UTF8'));
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
BEGIN
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
        AND NEW.digest = billing_digest(NEW, coalesce(previous.digest, ''));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    IF NEW.type = 'reversal' THEN
        PERFORM FROM billing_transaction original
        WHERE original.user_id = NEW.user_id AND original.number = NEW.reverses
            AND original.type = NEW.subtype AND original.type <> 'reversal'
            AND original.amount = -NEW.amount AND original.bonus_amount = -NEW.bonus_amount;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'Transaction % of user % is not the reverse of number %.',
                    NEW.number, NEW.user_id, NEW.reverses
                USING ERRCODE = 'BL002';
        END IF;
    END IF;
    RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION public.billing_check_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.user_id <> OLD.user_id THEN
        RAISE EXCEPTION 'A balance stays with its user.' USING ERRCODE = 'BL002';
    END IF;
    PERFORM FROM billing_transaction t
    WHERE t.user_id = NEW.user_id AND t.number = NEW.last_number
        AND t.new_balance = NEW.real AND t.new_bonus = NEW.bonus
        AND t.refilled = NEW.refilled AND t.bonus_refilled = NEW.bonus_refilled
        AND t.digest = NEW.last_digest AND t.created_at = NEW.last_at;
    IF NOT FOUND AND (
        NEW.last_number <> 0 OR NEW.real <> 0 OR NEW.bonus <> 0 OR NEW.refilled <> 0
        OR NEW.bonus_refilled <> 0 OR NEW.last_digest <> '' OR NEW.last_at IS NOT NULL
    ) OR TG_OP = 'UPDATE' AND NEW.last_number < OLD.last_number
    THEN
        RAISE EXCEPTION 'The balance of user % does not match the last transaction.', NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Balances change with a transaction only: billing.ledger.change_balance.';
    END IF;
    RETURN NULL;
END
$function$;

CREATE OR REPLACE FUNCTION public.billing_post(entries jsonb, acting_user_id bigint, via_channel text, skip_refused boolean DEFAULT false)
 RETURNS TABLE("position" bigint, outcome text, refusal jsonb, posted public.billing_transaction)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    max_money CONSTANT numeric := 999999999999999.9999;
    e record;                  -- the current entry
    b billing_balance;         -- the locked balance row of its user
    t billing_transaction;     -- what becomes of it
    original billing_transaction;
    clock timestamptz;
    real_change numeric;
    bonus_change numeric;
    -- Written in one statement each, at the end: checking a table's constraints costs more for a
    -- statement than for a row.
    pending billing_transaction[] := '{}';
    changed billing_balance[] := '{}';
    user_changed boolean := false;   -- whether b is to be stored
    user_keys text[] := '{}';        -- the idempotency keys of this user's rows in `pending`
BEGIN
    FOR e IN
        SELECT place, user_id, type, subtype,
            btrim(description) AS description, coalesce(device, '') AS device,
            coalesce(amount, 0) AS amount, coalesce(bonus_amount, 0) AS bonus_amount,
            idempotency_key, expected_number, reverses, coalesce(metadata, '{}') AS metadata
        FROM ROWS FROM (jsonb_to_recordset(entries) AS (
            user_id bigint, type text, subtype text, description text, device text,
            amount numeric, bonus_amount numeric, idempotency_key text,
            expected_number bigint, reverses bigint, metadata jsonb
        )) WITH ORDINALITY AS entry (
            user_id, type, subtype, description, device, amount, bonus_amount, idempotency_key,
            expected_number, reverses, metadata, place
        ) ORDER BY user_id, place
    LOOP
        IF b.user_id IS DISTINCT FROM e.user_id THEN
            IF user_changed THEN
                changed := changed || b;
            END IF;
            user_changed := false;
            user_keys := '{}';
            SELECT * INTO b FROM billing_balance x WHERE x.user_id = e.user_id FOR NO KEY UPDATE;
        ELSIF e.reverses IS NOT NULL OR e.idempotency_key = ANY (user_keys) THEN
            -- Looking for earlier transactions of the user, below, must find those of this batch.
            INSERT INTO billing_transaction SELECT * FROM unnest(pending);
            pending := '{}';
            user_keys := '{}';
        END IF;

        clock := clock_timestamp();  -- under the lock
        "position" := e.place;
        refusal := NULL;

        -- What the entry says by itself. NaN and the infinities are above every amount.
        IF b.user_id IS NULL
            OR NOT (abs(e.amount) <= max_money AND scale(e.amount) <= 4)
            OR NOT (abs(e.bonus_amount) <= max_money AND scale(e.bonus_amount) <= 4)
            OR coalesce(char_length(e.description), 0) NOT BETWEEN 5 AND 200
        THEN
            refusal := CASE
                WHEN b.user_id IS NULL THEN
                    jsonb_build_object('code', 'unknown_user', 'user_id', e.user_id)
                WHEN billing_amount_problem(e.amount) IS NOT NULL THEN
                    jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                        'reason', billing_amount_problem(e.amount), 'value', e.amount::text)
                WHEN billing_amount_problem(e.bonus_amount) IS NOT NULL THEN
                    jsonb_build_object('code', 'invalid_amount', 'field', 'bonus_amount',
                        'reason', billing_amount_problem(e.bonus_amount),
                        'value', e.bonus_amount::text)
                ELSE jsonb_build_object('code', 'invalid_description')
            END;

        -- The idempotency key: used before for the same, it answers the transaction of that time.
        ELSIF e.idempotency_key IS NOT NULL THEN
            SELECT * INTO t FROM billing_transaction x
            WHERE x.user_id = e.user_id AND x.idempotency_key = e.idempotency_key;
            IF FOUND THEN
                -- Which request brought it is not content: a repeated call is another request.
                IF (t.type, t.description, t.metadata - 'request_id', t.reverses)
                    IS NOT DISTINCT FROM
                    (e.type, e.description, e.metadata - 'request_id', e.reverses)
                    AND (CASE t.type
                        WHEN 'reversal' THEN true
                        WHEN 'tariff_charge' THEN
                            (t.subtype, t.device, t.amount + t.bonus_amount, 0::numeric)
                            = (e.subtype, e.device, e.amount, e.bonus_amount)
                        ELSE
                            (t.subtype, t.device, t.amount, t.bonus_amount)
                            = (e.subtype, e.device, e.amount, e.bonus_amount)
                    END)
                THEN
                    outcome := 'replayed';
                    posted := t;
                    RETURN NEXT;
                    CONTINUE;
                END IF;
                refusal := jsonb_build_object('code', 'idempotency_conflict', 'number', t.number);
            END IF;
        END IF;

        -- What the caller saw.
        IF refusal IS NULL AND e.expected_number <> b.last_number THEN
            refusal := jsonb_build_object('code', 'balance_moved', 'number', b.last_number,
                'expected_number', e.expected_number,
                'balance', b.real::text, 'bonus', b.bonus::text);
        END IF;

        -- How the amount falls on the two balances.
        IF refusal IS NULL THEN
            real_change := e.amount;
            bonus_change := e.bonus_amount;
            IF e.type = 'reversal' THEN
                SELECT * INTO original FROM billing_transaction x
                WHERE x.user_id = e.user_id AND x.number = e.reverses;
                IF NOT FOUND THEN
                    refusal := jsonb_build_object(
                        'code', 'unknown_transaction', 'number', e.reverses);
                ELSIF original.type = 'reversal' THEN
                    refusal := jsonb_build_object('code', 'not_reversible', 'number', e.reverses);
                ELSE
                    SELECT jsonb_build_object('code', 'already_reversed',
                            'number', e.reverses, 'reversed_by', x.number)
                    INTO refusal FROM billing_transaction x
                    WHERE x.user_id = e.user_id AND x.reverses = e.reverses;
                    real_change := -original.amount;
                    bonus_change := -original.bonus_amount;
                    e.subtype := original.type;
                    e.device := original.device;
                END IF;
            ELSIF e.type = 'tariff_charge' THEN
                IF bonus_change <> 0 OR real_change > 0 THEN
                    refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                        'reason', 'wrong_sign', 'value', real_change::text);
                ELSIF b.bonus + b.real + real_change < 0 THEN
                    refusal := jsonb_build_object('code', 'insufficient_funds', 'balance', 'any',
                        'needed', (-real_change)::numeric(19,4)::text,
                        'available', (b.bonus + b.real)::text);
                ELSE
                    bonus_change := -least(b.bonus, -real_change);
                    real_change := real_change - bonus_change;
                END IF;
            ELSIF e.type = 'main_charge' AND (
                bonus_change <> 0 OR (real_change > 0) <> (e.subtype = 'remainder')
            ) OR e.type = 'bonus_charge' AND (real_change <> 0 OR bonus_change < 0) THEN
                refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                    'reason', 'wrong_sign', 'value', real_change::text);
            END IF;
        END IF;

        -- Whether the balances can take it, and the clock: one that is so far behind is wrong.
        IF refusal IS NULL AND (
            b.last_at > clock + interval '1 day'
            OR real_change = 0 AND bonus_change = 0
            OR b.real + real_change NOT BETWEEN 0 AND max_money
            OR b.bonus + bonus_change NOT BETWEEN 0 AND max_money
        ) THEN
            refusal := CASE
                WHEN b.last_at > clock + interval '1 day' THEN
                    jsonb_build_object('code', 'clock_behind',
                        'clock', to_char(clock AT TIME ZONE 'UTC',
                            'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                        'last_at', to_char(b.last_at AT TIME ZONE 'UTC',
                            'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                WHEN real_change = 0 AND bonus_change = 0 THEN
                    jsonb_build_object('code', 'nothing_to_change')
                WHEN b.real + real_change < 0 THEN
                    jsonb_build_object('code', 'insufficient_funds', 'balance', 'real',
                        'needed', (-real_change)::numeric(19,4)::text, 'available', b.real::text)
                WHEN b.bonus + bonus_change < 0 THEN
                    jsonb_build_object('code', 'insufficient_funds', 'balance', 'bonus',
                        'needed', (-bonus_change)::numeric(19,4)::text, 'available', b.bonus::text)
                WHEN b.real + real_change > max_money THEN
                    jsonb_build_object('code', 'balance_out_of_range', 'balance', 'real')
                ELSE jsonb_build_object('code', 'balance_out_of_range', 'balance', 'bonus')
            END;
        END IF;

        IF refusal IS NOT NULL THEN
            IF NOT skip_refused THEN
                RAISE EXCEPTION 'entry % (user %) was refused: %',
                        e.place, e.user_id, refusal ->> 'code'
                    USING ERRCODE = 'BL001', DETAIL = refusal || jsonb_build_object('entry', e.place);
            END IF;
            outcome := 'refused';
            posted := NULL;
            RETURN NEXT;
            CONTINUE;
        END IF;

        -- One expression, because a transaction pays for each that it evaluates for the first
        -- time. The order is that of the table's columns. Without a cast, which would shorten a
        -- text that is too long for its column; an assignment refuses it.
        t := ROW(
            nextval('billing_transaction_id_seq'),
            b.last_number + 1,                                -- number
            e.type,
            e.subtype,
            e.description,
            e.device,
            real_change,                                      -- amount
            b.real,                                           -- old_balance
            b.real + real_change,                             -- new_balance
            bonus_change,                                     -- bonus_amount
            b.bonus,                                          -- old_bonus
            b.bonus + bonus_change,                           -- new_bonus
            b.refilled + greatest(real_change, 0),            -- refilled
            b.bonus_refilled + greatest(bonus_change, 0),     -- bonus_refilled
            -- created_at: never back, should the clock go back
            greatest(clock, b.last_at),
            via_channel,                                      -- channel
            e.idempotency_key,
            e.reverses,
            e.metadata,
            NULL,                                             -- digest, below
            acting_user_id,                                   -- actor_id
            e.user_id
        );
        t.digest := billing_digest(t, b.last_digest);
        pending := pending || t;
        IF t.idempotency_key IS NOT NULL THEN
            user_keys := user_keys || e.idempotency_key;
        END IF;
        b.real := t.new_balance;
        b.bonus := t.new_bonus;
        b.refilled := t.refilled;
        b.bonus_refilled := t.bonus_refilled;
        b.last_number := t.number;
        b.last_digest := t.digest;
        b.last_at := t.created_at;
        user_changed := true;
        outcome := 'posted';
        posted := t;
        RETURN NEXT;
    END LOOP;
    IF user_changed THEN
        changed := changed || b;
    END IF;
    INSERT INTO billing_transaction SELECT * FROM unnest(pending);
    UPDATE billing_balance x SET
        real = c.real, bonus = c.bonus,
        refilled = c.refilled, bonus_refilled = c.bonus_refilled,
        last_number = c.last_number, last_digest = c.last_digest, last_at = c.last_at
    FROM unnest(changed) c WHERE x.user_id = c.user_id;
END
$function$;

CREATE OR REPLACE FUNCTION public.billing_tell_of_transactions()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    wanted text[];
    default_threshold numeric;
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_webhookendpoint e
        WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low']::varchar[]
    ) THEN
        RETURN NULL;
    END IF;
    wanted := ARRAY(SELECT unnest(e.events) FROM billing_webhookendpoint e WHERE e.is_active);
    SELECT amount INTO default_threshold FROM billing_lowbalancethreshold WHERE user_id IS NULL;
    WITH happened AS (
        SELECT p.user_id, p.number, 1 AS place, 'transaction.posted' AS type, '{}'::jsonb AS data
        FROM posted p
        WHERE 'transaction.posted' = ANY (wanted)
        UNION ALL
        SELECT p.user_id, p.number, 2, 'balance.low', jsonb_build_object(
            'threshold', limited.threshold::text, 'balance', p.new_balance::text
        )
        FROM posted p
        LEFT JOIN billing_lowbalancethreshold own ON own.user_id = p.user_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN own.id IS NULL THEN default_threshold ELSE own.amount END
        ) limited (threshold)
        WHERE 'balance.low' = ANY (wanted)
            AND p.old_balance >= limited.threshold AND p.new_balance < limited.threshold
    ), noted AS (
        INSERT INTO billing_webhookevent (type, user_id, number, data, created_at)
        SELECT type, user_id, number, data, clock_timestamp() FROM happened
        ORDER BY user_id, number, place
        RETURNING id, type, user_id
    )
    INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status)
    SELECT n.id, e.id, n.user_id, 'pending'
    FROM noted n JOIN billing_webhookendpoint e ON e.is_active AND n.type = ANY (e.events)
    ORDER BY n.id, e.id;
    PERFORM billing_wake_webhooks(e.id) FROM billing_webhookendpoint e
    WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low']::varchar[];
    RETURN NULL;
END
$function$;

REVOKE ALL ON FUNCTION billing_type_allows(
    character varying, character varying, character varying, numeric, numeric, numeric, bigint)
    FROM PUBLIC;
REVOKE ALL ON FUNCTION billing_digest(billing_transaction, bytea) FROM PUBLIC;
