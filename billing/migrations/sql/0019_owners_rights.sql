-- Every function with queries never compiles them, and those that write what their caller need not
-- be allowed to write run with their owner's rights, closed to everybody else. As billing/sql/ has
-- them at this point.

-- Guard of billing_balance: a balance is what the user's last transaction left; none, none. Each
-- state of the row must be what the transaction of its number left, and numbers never go back;
-- that no transaction has a higher number is the guard of billing_transaction's part.
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

-- Guard of billing_transaction: a row continues the user's row before it and has its digest, a
-- reversal is the opposite of what it reverses, and the balance row has come at least this far.
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

-- A new password ends the sessions of `/v2/panel/`, as it does those of the panel: whoever knew the
-- old one is out, however the password was set.
CREATE OR REPLACE FUNCTION public.billing_end_sessions()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    DELETE FROM billing_apisession WHERE operator_id = NEW.id;
    RETURN NULL;
END
$function$;

-- Locks balances, in the order of user IDs, until the end of the database transaction: with its
-- owner's rights, for a lock takes the right to write. With `skip_held` those that somebody else
-- holds are left out, instead of waited for.
CREATE OR REPLACE FUNCTION public.billing_hold(user_ids bigint[], skip_held boolean DEFAULT false)
 RETURNS SETOF public.billing_balance
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF skip_held THEN
        RETURN QUERY SELECT * FROM billing_balance b WHERE b.user_id = ANY (user_ids)
            ORDER BY b.user_id FOR NO KEY UPDATE SKIP LOCKED;
    ELSE
        RETURN QUERY SELECT * FROM billing_balance b WHERE b.user_id = ANY (user_ids)
            ORDER BY b.user_id FOR NO KEY UPDATE;
    END IF;
END
$function$;

-- The number of a user's last transaction not later than `moment`; 0 if there is none. Times never
-- go back along the numbers and the numbers have no gaps, so it is found by halving.
CREATE OR REPLACE FUNCTION public.billing_number_at(of_user_id bigint, moment timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    low bigint := 0;
    high bigint := coalesce(
        (SELECT last_number FROM billing_balance WHERE user_id = of_user_id), 0);
    middle bigint;
BEGIN
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT created_at FROM billing_transaction
            WHERE user_id = of_user_id AND number = middle) <= moment
        THEN low := middle;
        ELSE high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$function$;

-- Every user has a balance, however the user was created.
CREATE OR REPLACE FUNCTION public.billing_open_balance()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO billing_balance (user_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$function$;

-- Posts a batch of entries, in turn, each to one user's two balances; one entry is a batch of one.
--
-- `entries` is a JSON array of objects:
--     user_id, type, subtype, description, device, amount, bonus_amount, idempotency_key,
--     expected_number, reverses, metadata
-- Amounts are strings, added as they are signed. A `tariff_charge` names its whole cost as a
-- negative `amount`, which is taken from the bonus balance first; a `reversal` names only the
-- transaction it `reverses`, and its amounts follow from that.
--
-- Balance rows are locked in the order of user ids, before anything is checked, so batches cannot
-- deadlock and no check can go stale. Entries of one user keep their order.
--
-- Answers a row for each entry: its position (from 1), what became of it (posted, replayed or
-- refused), the refusal as {"code", figures…}, and the transaction. Unless `skip_refused`, the
-- first refusal raises BL001 with the refusal as DETAIL, and nothing of the batch is posted.
--
-- It runs with its owner's rights, and nothing else writes balances and transactions: whoever may
-- call it needs no right to write their tables. When a transaction is posted is the clock's
-- business, never the caller's.
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

-- Queues a job that resumes what a user's empty balance, or deactivation, had suspended.
--
-- The job is queued by the very database transaction that refills, or activates: it is there if and
-- only if the reason for it is. One waiting job per user is enough, which its queueing lock sees to:
-- a job that waits still sees every refill committed before it starts, and one that was started
-- meanwhile first locks the balance, so it waits for the commit of a refill that found it waiting.
-- A refill that finds it started queues another. A job that started just before an activation was
-- committed still sees the user deactivated; the next charging run resumes then.
--
-- A refill neither fails nor waits for want of a job: the next charging run resumes anyway. (Two
-- refills of one user follow each other by the lock on the balance, so they never wait for each
-- other here.)
CREATE OR REPLACE FUNCTION public.billing_queue_resumption(of_user_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '250ms'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF EXISTS (
        SELECT FROM billing_subscription s
        WHERE s.user_id = of_user_id AND s.status = 'suspended' AND s.due_on IS NOT NULL
    ) THEN
        BEGIN
            PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
                'refills', 'billing.tasks.resume', 10, NULL, 'resume:' || of_user_id,
                jsonb_build_object('user_id', of_user_id), NULL
            )::procrastinate_job_to_defer_v1]);
        EXCEPTION
            WHEN unique_violation THEN
                NULL;  -- one waits already
            WHEN OTHERS THEN
                RAISE WARNING 'No job to resume the subscriptions of user %: %',
                    of_user_id, SQLERRM;
        END;
    END IF;
END
$function$;

-- Guard of billing_plan: what was paid for, and until when, was reckoned by the cycle.
CREATE OR REPLACE FUNCTION public.billing_refuse_other_cycle()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF NEW.cycle <> OLD.cycle
        AND EXISTS (SELECT FROM billing_subscription s WHERE s.plan_id = NEW.id)
    THEN
        RAISE EXCEPTION 'A plan in use keeps its billing cycle.'
            USING ERRCODE = 'BL002', HINT = 'Retire the plan, and add another.';
    END IF;
    RETURN NEW;
END
$function$;

-- A user who is activated resumes soon, like one who refills: see billing_queue_resumption.
CREATE OR REPLACE FUNCTION public.billing_resume_after_activation()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    PERFORM billing_queue_resumption(NEW.id);
    RETURN NULL;
END
$function$;

-- After a refill, whatever brought it: see billing_queue_resumption.
CREATE OR REPLACE FUNCTION public.billing_resume_after_refill()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    PERFORM billing_queue_resumption(NEW.user_id);
    RETURN NULL;
END
$function$;

-- After a subscription was suspended, or resumed. What is told is what it was like then, in the form
-- of billing/wire.py.
CREATE OR REPLACE FUNCTION public.billing_tell_of_subscription()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    event_type CONSTANT text := CASE NEW.status
        WHEN 'active' THEN 'subscription.resumed' ELSE 'subscription.suspended' END;
    wanted_by bigint[] := ARRAY(
        SELECT e.id FROM billing_webhookendpoint e
        WHERE e.is_active AND event_type = ANY (e.events) ORDER BY e.id
    );
    noted_id bigint;
BEGIN
    IF wanted_by = '{}' THEN
        RETURN NULL;
    END IF;
    INSERT INTO billing_webhookevent (type, user_id, data, created_at)
    SELECT event_type, NEW.user_id, jsonb_build_object('subscription', jsonb_build_object(
            'id', NEW.id, 'user_id', NEW.user_id,
            'plan_id', NEW.plan_id, 'plan', p.name, 'device', NEW.device,
            'status', NEW.status, 'started_on', NEW.started_on,
            'plan_since', NEW.plan_since, 'status_since', NEW.status_since,
            'charged_from', NEW.charged_from, 'charged_through', NEW.charged_through,
            'paid', NEW.paid::text, 'charge_number', NEW.charge_number
        )), clock_timestamp()
    FROM billing_plan p WHERE p.id = NEW.plan_id
    RETURNING id INTO noted_id;
    INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status)
    SELECT noted_id, endpoint_id, NEW.user_id, 'pending' FROM unnest(wanted_by) endpoint_id;
    PERFORM billing_wake_webhooks(endpoint_id) FROM unnest(wanted_by) endpoint_id;
    RETURN NULL;
END
$function$;

-- After transactions were posted: that they were, and whose balance fell below its threshold.
--
-- The first question is all that posting costs where nobody wants to know.
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

-- Queues a job that sends what waits for an endpoint, unless one waits already or it is paused.
--
-- Nobody waits for anybody here, and nothing is refused for want of a job. Who finds another
-- transaction queueing that very job leaves it to that one; what is missed this way, because that
-- job was done before this transaction ended, a sweep every few seconds finds (billing/tasks.py).
CREATE OR REPLACE FUNCTION public.billing_wake_webhooks(for_endpoint_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '250ms'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    lock_name CONSTANT text := 'webhooks:' || for_endpoint_id;
BEGIN
    IF EXISTS (
        SELECT FROM procrastinate_jobs j WHERE j.queueing_lock = lock_name AND j.status = 'todo'
    ) OR NOT EXISTS (
        SELECT FROM billing_webhookendpoint e
        WHERE e.id = for_endpoint_id AND e.is_active
            AND (e.paused_until IS NULL OR e.paused_until <= clock_timestamp())
    ) OR NOT pg_try_advisory_xact_lock(hashtextextended(lock_name, 0)) THEN
        RETURN;
    END IF;
    PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
        'webhooks', 'billing.tasks.send_webhooks', 0, lock_name, lock_name,
        jsonb_build_object('endpoint_id', for_endpoint_id), NULL
    )::procrastinate_job_to_defer_v1]);
EXCEPTION
    WHEN unique_violation THEN
        NULL;  -- one waits already
    WHEN OTHERS THEN
        RAISE WARNING 'No job to send webhooks to endpoint %: %', for_endpoint_id, SQLERRM;
END
$function$;

-- Of their owner alone, until it is granted: see `manage.py grant_roles`.
DO $$
DECLARE
    ours regprocedure;
    writer regrole;
BEGIN
    FOR ours IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND starts_with(proname, 'billing_')
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours);
    END LOOP;
    -- Whoever could post until now, still can.
    FOR writer IN
        SELECT DISTINCT a.grantee FROM pg_class c, aclexplode(c.relacl) a
        WHERE c.oid = 'billing_transaction'::regclass
            AND a.privilege_type = 'INSERT' AND a.grantee NOT IN (c.relowner, 0)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION
    billing_post(jsonb, bigint, text, boolean), billing_hold(bigint[], boolean),
    billing_number_at(bigint, timestamptz), billing_wake_webhooks(bigint),
    billing_digest(billing_transaction, bytea), billing_amount_problem(numeric),
    billing_type_allows(varchar, varchar, varchar, numeric, numeric, numeric, bigint) TO %s', writer);
    END LOOP;
END
$$;
