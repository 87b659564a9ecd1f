DROP TRIGGER balances_match_the_last_transaction ON billing_balance;
DROP TRIGGER transactions_follow_each_other ON billing_transaction;
DROP TRIGGER transactions_move_their_balance ON billing_transaction;
DROP FUNCTION billing_canonical(bytea, bigint, bigint, bigint, text, text, text, text, numeric, numeric, numeric, numeric, numeric, numeric, numeric, numeric, timestamp with time zone, bigint, text, text, bigint, jsonb, jsonb);
DROP FUNCTION billing_continue_history();
DROP FUNCTION billing_expiry(public.billing_balance, public.billing_grant, timestamp with time zone);
DROP FUNCTION billing_type_allows(text, text, text, numeric, numeric, numeric, numeric, bigint);
DROP FUNCTION billing_write(public.billing_posting[], public.billing_grant[], public.billing_grantuse[]);

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
        -- Grants begin with the first transaction, or after a history that was imported as one.
        OR (CASE WHEN TG_OP = 'UPDATE' AND OLD.last_number > 0
            THEN NEW.grants_since <> OLD.grants_since
            ELSE NEW.grants_since NOT IN (0, NEW.last_number) END)
    THEN
        RAISE EXCEPTION 'The balance of user % does not match the last transaction.', NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Balances change with a transaction only: billing.ledger.change_balance.';
    END IF;
    RETURN NULL;
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

CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, previous_digest bytea, uses jsonb)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    -- Form 2 says what form 1 has no place for: dates, reason, batch, and the grants that it took
    -- from.
    IF t.form = 2 THEN
        RETURN sha256(convert_to(json_build_array(
            encode(previous_digest, 'hex'),
            t.id::text, t.user_id::text, t.number::text,
            t.type, t.subtype, t.description, t.device,
            t.amount::text, t.old_balance::text, t.new_balance::text,
            t.bonus_amount::text, t.old_bonus::text, t.new_bonus::text,
            t.refilled::text, t.bonus_refilled::text,
            to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            t.actor_id::text, t.channel, t.idempotency_key, t.reverses::text, t.metadata::text,
            CASE num_nonnulls(t.payment_date, t.bonus_expires_at, t.reason_id, t.batch_id)
                WHEN 0 THEN jsonb_strip_nulls(jsonb_build_object('uses', uses))
                ELSE jsonb_strip_nulls(jsonb_build_object(
                    'uses', uses,
                    'payment_date', to_char(t.payment_date, 'YYYY-MM-DD'),
                    'bonus_expires_at', to_char(
                        t.bonus_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                    'reason', t.reason_id,
                    'batch', t.batch_id::text
                ))
            END::text
        )::text, 'UTF8'));
    END IF;
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

CREATE OR REPLACE FUNCTION public.billing_expiry(b public.billing_balance, g public.billing_grant, moment timestamp with time zone)
 RETURNS public.billing_transaction
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    t billing_transaction;
    gift billing_transaction;
BEGIN
    SELECT * INTO gift FROM billing_transaction x
    WHERE x.user_id = b.user_id AND x.number = g.number;
    t := ROW(
        nextval('billing_transaction_id_seq'),
        b.last_number + 1,                                    -- number
        'bonus_expiry',
        -- The grant with which a user's grants began is that of no gift.
        CASE WHEN g.number > b.grants_since THEN gift.subtype ELSE 'gift' END,
        CASE WHEN g.number > b.grants_since THEN 'Expired: ' || left(gift.description, 191)
            ELSE 'Bonus expired' END,
        '',                                                   -- device
        0, b.real, b.real,                                    -- real
        -g.remaining, b.bonus, b.bonus - g.remaining,         -- bonus
        b.refilled,
        b.bonus_refilled,
        greatest(moment, b.last_at),                          -- created_at
        'system',                                             -- channel
        NULL,                                                 -- idempotency_key
        NULL,                                                 -- reverses
        '{}',                                                 -- metadata
        NULL,                                                 -- digest, below
        NULL,                                                 -- actor_id
        b.user_id,
        NULL,                                                 -- payment_date
        NULL,                                                 -- bonus_expires_at
        2,                                                    -- form
        NULL,                                                 -- reason_id
        NULL                                                  -- batch_id
    );
    t.digest := billing_digest(t, b.last_digest, jsonb_build_array(
        jsonb_build_array(g.number::text, g.remaining::text)));
    RETURN t;
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
    pending billing_transaction[];
    changed billing_balance[];
    user_changed boolean;      -- whether b is to be stored
    user_keys text[];          -- the idempotency keys of this user's rows in `pending`
    -- Of users with a bonus balance only. (A transaction pays for each expression that it evaluates,
    -- so others evaluate none of these.)
    spendable billing_grant[]; -- in the order of spending
    given billing_grant[];     -- the grants and uses of the rows in `pending`
    uses billing_grantuse[];
    has_moved boolean;         -- whether there are any
    used jsonb;                -- the uses of the current row, as its digest has them
    g record;
    part numeric;
    left_over numeric;
    real_left numeric;         -- of the transaction that is reversed
    bonus_left numeric;
    last_reversal bigint;
    kept_id bigint;            -- the user whose duplicate this one is
    forgotten timestamptz;
    gave_back jsonb;           -- entries for users whose grants got something back
BEGIN
    FOR e IN
        SELECT place, user_id, type, subtype,
            btrim(description) AS description, coalesce(device, '') AS device,
            coalesce(amount, 0) AS amount, coalesce(bonus_amount, 0) AS bonus_amount,
            idempotency_key, expected_number, reverses, coalesce(metadata, '{}') AS metadata,
            payment_date, bonus_expires_at, reason, batch
        FROM ROWS FROM (jsonb_to_recordset(entries) AS (
            user_id bigint, type text, subtype text, description text, device text,
            amount numeric, bonus_amount numeric, idempotency_key text,
            expected_number bigint, reverses bigint, metadata jsonb,
            payment_date date, bonus_expires_at timestamptz, reason text, batch bigint
        )) WITH ORDINALITY AS entry (
            user_id, type, subtype, description, device, amount, bonus_amount, idempotency_key,
            expected_number, reverses, metadata, payment_date, bonus_expires_at, reason, batch,
            place
        ) ORDER BY user_id, place
    LOOP
        IF b.user_id IS DISTINCT FROM e.user_id THEN
            IF user_changed THEN
                changed := changed || b;
                user_changed := false;
                user_keys := NULL;
            END IF;
            SELECT * INTO b FROM billing_balance x WHERE x.user_id = e.user_id FOR NO KEY UPDATE;
        ELSIF has_moved OR e.reverses IS NOT NULL OR e.idempotency_key = ANY (user_keys) THEN
            -- What is looked for below, earlier transactions of the user and what is left of
            -- grants, must include that of this batch.
            PERFORM billing_write(pending, given, uses);
            pending := NULL;
            given := NULL;
            uses := NULL;
            has_moved := false;
            user_keys := NULL;
        END IF;

        clock := clock_timestamp();  -- under the lock
        "position" := e.place;
        refusal := NULL;

        -- What the entry says by itself. NaN and the infinities are above every amount.
        IF b.user_id IS NULL
            OR NOT (abs(e.amount) <= max_money AND scale(e.amount) <= 4)
            OR NOT (abs(e.bonus_amount) <= max_money AND scale(e.bonus_amount) <= 4)
            OR coalesce(char_length(e.description), 0) NOT BETWEEN 5 AND 200
            OR e.payment_date NOT BETWEEN '2000-01-01' AND (clock AT TIME ZONE 'UTC')::date + 1
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
                WHEN e.type = 'bonus_expiry' THEN NULL  -- says nothing
                WHEN coalesce(char_length(e.description), 0) NOT BETWEEN 5 AND 200 THEN
                    jsonb_build_object('code', 'invalid_description')
                ELSE jsonb_build_object('code', 'invalid_payment_date',
                    'payment_date', to_char(e.payment_date, 'YYYY-MM-DD'))
            END;

        -- The idempotency key: used before for the same, it returns the transaction of that time.
        ELSIF e.idempotency_key IS NOT NULL THEN
            SELECT * INTO t FROM billing_transaction x
            WHERE x.user_id = e.user_id AND x.idempotency_key = e.idempotency_key;
            IF FOUND THEN
                -- Which request or batch brought it is not content: a repeated call is another.
                IF (t.type, t.description, t.metadata - 'request_id', t.reverses, t.payment_date,
                        t.bonus_expires_at, t.reason_id)
                    IS NOT DISTINCT FROM
                    (e.type, e.description, e.metadata - 'request_id', e.reverses, e.payment_date,
                        e.bonus_expires_at, e.reason)
                    AND (CASE t.type
                        WHEN 'reversal' THEN
                            -- Its amount or, without one, all that was left then.
                            abs(t.amount + t.bonus_amount) = CASE e.amount WHEN 0 THEN (
                                SELECT abs(sum(x.amount + x.bonus_amount))
                                FROM billing_transaction x
                                WHERE x.user_id = t.user_id AND (x.number = t.reverses
                                    OR x.reverses = t.reverses AND x.number < t.number)
                            ) ELSE e.amount END
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

        -- A closed account, which has no money, gets none: it would be lost to the person.
        IF refusal IS NULL AND b.real = 0 AND b.bonus = 0 AND e.type <> 'bonus_expiry' THEN
            SELECT u.duplicate_of_id, u.forgotten_at INTO kept_id, forgotten
            FROM users_user u WHERE u.id = e.user_id;
            IF kept_id IS NOT NULL THEN
                refusal := jsonb_build_object('code', 'duplicate_user',
                    'user_id', e.user_id, 'duplicate_of', kept_id);
            ELSIF forgotten IS NOT NULL THEN
                refusal := jsonb_build_object('code', 'forgotten_user', 'user_id', e.user_id);
            END IF;
        END IF;

        -- What the caller saw. (An expiry since is no change that a caller has to see.)
        IF refusal IS NULL AND e.expected_number <> b.last_number THEN
            refusal := jsonb_build_object('code', 'balance_moved', 'number', b.last_number,
                'expected_number', e.expected_number,
                'balance', b.real::text, 'bonus', b.bonus::text);
        END IF;

        -- What has expired of the user's grants comes first.
        IF b.bonus > 0 AND refusal IS NULL THEN
            spendable := ARRAY(
                SELECT x FROM billing_grant x WHERE x.user_id = e.user_id AND x.is_open
                ORDER BY x.expires_at NULLS LAST, x.number
            );
            IF spendable[1].expires_at <= clock AND b.last_at <= clock + interval '1 day' THEN
                WHILE spendable[1].expires_at <= clock LOOP
                    t := billing_expiry(b, spendable[1], clock);
                    pending := pending || t;
                    uses := uses || ROW(
                        spendable[1].number, spendable[1].uses + 1, t.number, 1,
                        spendable[1].remaining, 0, e.user_id
                    )::billing_grantuse;
                    b := ROW(
                        b.user_id, b.real, t.new_bonus, b.refilled, b.bonus_refilled, t.number,
                        t.digest, t.created_at, b.grants_since
                    );
                    spendable := spendable[2:];
                END LOOP;
                user_changed := true;
                PERFORM billing_write(pending, given, uses);
                pending := NULL;
                given := NULL;
                uses := NULL;
                has_moved := false;
                user_keys := NULL;
            END IF;
            CONTINUE WHEN e.type = 'bonus_expiry';
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
                ELSIF original.type IN ('reversal', 'bonus_expiry') THEN
                    refusal := jsonb_build_object('code', 'not_reversible', 'number', e.reverses);
                ELSE
                    SELECT original.amount + coalesce(sum(x.amount), 0),
                        original.bonus_amount + coalesce(sum(x.bonus_amount), 0), max(x.number)
                    INTO real_left, bonus_left, last_reversal
                    FROM billing_transaction x
                    WHERE x.user_id = e.user_id AND x.reverses = e.reverses;
                    e.subtype := original.type;
                    e.device := original.device;
                    IF real_left = 0 AND bonus_left = 0 THEN
                        refusal := jsonb_build_object('code', 'already_reversed',
                            'number', e.reverses, 'reversed_by', last_reversal);
                    ELSIF e.amount = 0 THEN
                        real_change := -real_left;
                        bonus_change := -bonus_left;
                    ELSIF e.amount < 0 OR real_left * bonus_left < 0 THEN
                        refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                            'reason', 'wrong_sign', 'value', e.amount::text);
                    ELSIF e.amount > abs(real_left + bonus_left) THEN
                        refusal := jsonb_build_object('code', 'refund_too_large',
                            'number', e.reverses, 'amount', e.amount::numeric(19,4)::text,
                            'left', abs(real_left + bonus_left)::text);
                    ELSE
                        -- In the reverse order in which it was taken: real money first.
                        real_change := -sign(real_left + bonus_left)
                            * least(e.amount, abs(real_left));
                        bonus_change := -sign(real_left + bonus_left)
                            * (e.amount - abs(real_change));
                    END IF;
                    -- A gift is taken back from its own grant alone.
                    IF bonus_change < 0 AND original.number > b.grants_since THEN
                        spendable := ARRAY(
                            SELECT x FROM unnest(spendable) x WHERE x.number = e.reverses);
                        IF coalesce(spendable[1].remaining, 0) + bonus_change < 0
                            AND refusal IS NULL
                        THEN
                            refusal := jsonb_build_object('code', 'insufficient_funds',
                                'balance', 'bonus',
                                'needed', (-bonus_change)::numeric(19,4)::text,
                                'available', coalesce(spendable[1].remaining, 0.0000)::text);
                        END IF;
                    END IF;
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
            -- A subscription never takes the bonus; only a remainder of one gives something back.
            ELSIF e.type = 'main_charge' AND (
                bonus_change <> 0 OR (real_change > 0) <> (e.subtype = 'remainder')
            ) OR e.type = 'bonus_charge' AND (real_change <> 0 OR bonus_change < 0) THEN
                refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                    'reason', 'wrong_sign', 'value', real_change::text);
            END IF;
        END IF;

        IF e.reason IS NOT NULL AND refusal IS NULL THEN
            refusal := billing_reason_problem(
                e.reason, e.type, e.description, real_change, bonus_change);
        END IF;

        -- Whether the balances can take it, and the clock: one that is so far behind is wrong.
        IF refusal IS NULL AND (
            b.last_at > clock + interval '1 day'
            OR real_change = 0 AND bonus_change = 0
            OR b.real + real_change NOT BETWEEN 0 AND max_money
            OR b.bonus + bonus_change NOT BETWEEN 0 AND max_money
            OR e.bonus_expires_at <= clock
            OR e.bonus_expires_at IS NOT NULL AND bonus_change <= 0
        ) THEN
            refusal := CASE
                WHEN b.last_at > clock + interval '1 day' THEN
                    jsonb_build_object('code', 'clock_behind',
                        'clock', to_char(clock AT TIME ZONE 'UTC',
                            'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                        'last_at', to_char(b.last_at AT TIME ZONE 'UTC',
                            'YYYY-MM-DD"T"HH24:MI:SS"Z"'))
                WHEN e.bonus_expires_at <= clock THEN
                    jsonb_build_object('code', 'invalid_expiry', 'reason', 'past')
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
                WHEN b.bonus + bonus_change > max_money THEN
                    jsonb_build_object('code', 'balance_out_of_range', 'balance', 'bonus')
                ELSE jsonb_build_object('code', 'invalid_expiry', 'reason', 'no_bonus')
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

        -- What is added to the bonus is a grant or goes back to grants; what is taken comes from
        -- grants.
        IF bonus_change <> 0 THEN
            used := NULL;
            left_over := bonus_change;
            IF bonus_change < 0 THEN
                FOREACH g IN ARRAY spendable LOOP
                    EXIT WHEN left_over = 0;
                    part := least(-left_over, g.remaining);
                    left_over := left_over + part;
                    uses := uses || ROW(
                        g.number, g.uses + 1, b.last_number + 1,
                        coalesce(jsonb_array_length(used), 0) + 1,
                        part, g.remaining - part, e.user_id
                    )::billing_grantuse;
                    used := coalesce(used, '[]') || jsonb_build_array(jsonb_build_array(
                        g.number::text, part::numeric(19,4)::text));
                END LOOP;
            ELSIF e.type = 'reversal' AND original.number > b.grants_since THEN
                -- The last grant that was taken from gets its money back first.
                FOR g IN
                    SELECT x.number, x.uses, x.remaining, n.amount FROM (
                        SELECT u.grant_number, sum(u.amount) AS amount,
                            min(u.line) FILTER (WHERE u.number = e.reverses) AS line
                        FROM billing_grantuse u
                        WHERE u.user_id = e.user_id AND (u.number = e.reverses OR u.number IN (
                            SELECT r.number FROM billing_transaction r
                            WHERE r.user_id = e.user_id AND r.reverses = e.reverses))
                        GROUP BY u.grant_number
                    ) n JOIN billing_grant x
                        ON x.user_id = e.user_id AND x.number = n.grant_number
                    WHERE n.amount > 0 ORDER BY n.line DESC
                LOOP
                    EXIT WHEN left_over = 0;
                    part := least(left_over, g.amount);
                    left_over := left_over - part;
                    uses := uses || ROW(
                        g.number, g.uses + 1, b.last_number + 1,
                        coalesce(jsonb_array_length(used), 0) + 1,
                        -part, g.remaining + part, e.user_id
                    )::billing_grantuse;
                    used := coalesce(used, '[]') || jsonb_build_array(jsonb_build_array(
                        g.number::text, (-part)::numeric(19,4)::text));
                END LOOP;
                -- What has expired meanwhile expires again.
                gave_back := coalesce(gave_back, '[]') || jsonb_build_object(
                    'user_id', e.user_id, 'type', 'bonus_expiry');
            ELSE
                given := given || ROW(
                    b.last_number + 1, bonus_change, bonus_change, 0, e.bonus_expires_at, NULL,
                    e.user_id
                )::billing_grant;
            END IF;
            has_moved := true;
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
            e.user_id,
            e.payment_date,
            e.bonus_expires_at,
            CASE WHEN bonus_change <> 0 AND used IS NOT NULL OR e.payment_date IS NOT NULL
                OR e.bonus_expires_at IS NOT NULL OR e.reason IS NOT NULL
                OR e.batch IS NOT NULL THEN 2 ELSE 1 END,     -- form
            e.reason,
            e.batch
        );
        t.digest := billing_digest(
            t, b.last_digest, CASE WHEN bonus_change <> 0 THEN used END);
        pending := pending || t;
        IF t.idempotency_key IS NOT NULL THEN
            user_keys := user_keys || e.idempotency_key;
        END IF;
        b := ROW(
            b.user_id, t.new_balance, t.new_bonus, t.refilled, t.bonus_refilled, t.number,
            t.digest, t.created_at, b.grants_since
        );
        user_changed := true;
        outcome := 'posted';
        posted := t;
        RETURN NEXT;
    END LOOP;
    IF user_changed THEN
        changed := changed || b;
    END IF;
    -- As `billing_write` does, whose call would cost more than this.
    INSERT INTO billing_transaction SELECT * FROM unnest(pending);
    IF has_moved THEN
        IF given IS NOT NULL THEN
            INSERT INTO billing_grant (user_id, number, amount, remaining, uses, expires_at)
            SELECT x.user_id, x.number, x.amount, x.remaining, x.uses, x.expires_at
            FROM unnest(given) x;
        END IF;
        IF uses IS NOT NULL THEN
            INSERT INTO billing_grantuse SELECT * FROM unnest(uses);
        END IF;
    END IF;
    UPDATE billing_balance x SET
        real = c.real, bonus = c.bonus,
        refilled = c.refilled, bonus_refilled = c.bonus_refilled,
        last_number = c.last_number, last_digest = c.last_digest, last_at = c.last_at
    FROM unnest(changed) c WHERE x.user_id = c.user_id;
    IF gave_back IS NOT NULL THEN
        PERFORM billing_post(gave_back, NULL, 'system', true);
    END IF;
END
$function$;

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

CREATE CONSTRAINT TRIGGER balances_match_the_last_transaction
    AFTER INSERT OR UPDATE ON public.billing_balance
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();

CREATE TRIGGER billing_resume_after_refill
    AFTER UPDATE ON public.billing_balance
    FOR EACH ROW
    WHEN ((new."real" > old."real"))
    EXECUTE FUNCTION public.billing_resume_after_refill();

CREATE CONSTRAINT TRIGGER transactions_follow_each_other
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();

DROP TYPE billing_posting;
DROP TYPE billing_entry;
REVOKE ALL ON FUNCTION
    billing_expiry(billing_balance, billing_grant, timestamptz),
    billing_resume_after_refill(),
    billing_type_allows(
        character varying, character varying, character varying, numeric, numeric, numeric,
        numeric, bigint),
    billing_write(billing_transaction[], billing_grant[], billing_grantuse[])
    FROM PUBLIC;
