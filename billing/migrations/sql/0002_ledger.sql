-- The ledger's functions. billing/ledger.py calls billing_post; the guards declared at the models
-- (billing/models/guards.py) call the billing_check_* and billing_refuse_* functions.

-- The digest of a transaction: SHA-256 over its canonical form, which docs/ledger.md describes.
CREATE FUNCTION billing_digest(t billing_transaction, previous_digest bytea) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(json_build_array(
        encode(previous_digest, 'hex'),
        t.id::text, t.user_id::text, t.number::text,
        t.type, t.subtype, t.description, t.device,
        t.amount::text, t.old_balance::text, t.new_balance::text,
        t.bonus_amount::text, t.old_bonus::text, t.new_bonus::text,
        t.refilled::text, t.bonus_refilled::text,
        to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        t.actor_id::text, t.channel, t.idempotency_key, t.reverses::text, t.metadata::text
    )::text, 'UTF8'))
$$;

-- Why `amount` is no money, or NULL if it is. numeric accepts NaN, infinities and any scale.
CREATE FUNCTION billing_amount_problem(amount numeric) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN amount IS NULL OR amount IN ('NaN', 'Infinity', '-Infinity') THEN 'not_a_number'
        WHEN scale(amount) > 4 THEN 'too_many_decimals'
        WHEN abs(amount) > 999999999999999.9999 THEN 'out_of_range'
    END
$$;

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
CREATE FUNCTION billing_post(
    entries jsonb, acting_user_id bigint, via_channel text, skip_refused boolean DEFAULT false
) RETURNS TABLE ("position" bigint, outcome text, refusal jsonb, posted billing_transaction)
LANGUAGE plpgsql AS $$
DECLARE
    max_money CONSTANT numeric := 999999999999999.9999;
    e record;
    b billing_balance;         -- the locked balance row of the current user
    t billing_transaction;     -- what becomes of the current entry
    original billing_transaction;
    -- Written in one statement each, at the end: checking a table's constraints costs more for a
    -- statement than for a row.
    pending billing_transaction[] := '{}';
    changed billing_balance[] := '{}';
    user_changed boolean := false;   -- whether b is to be stored
    user_pending boolean := false;   -- whether rows of this user wait in `pending`
    real_change numeric;
    bonus_change numeric;
    is_replay boolean;         -- the key was used: t is the transaction of that time
    is_same boolean;           -- and its content is what this entry says
BEGIN
    FOR e IN
        SELECT * FROM ROWS FROM (jsonb_to_recordset(entries) AS (
            user_id bigint, type text, subtype text, description text, device text,
            amount numeric, bonus_amount numeric, idempotency_key text,
            expected_number bigint, reverses bigint, metadata jsonb
        )) WITH ORDINALITY AS entry (
            user_id, type, subtype, description, device, amount, bonus_amount, idempotency_key,
            expected_number, reverses, metadata, place
        ) ORDER BY entry.user_id, entry.place
    LOOP
        IF b.user_id IS DISTINCT FROM e.user_id THEN
            IF user_changed THEN
                changed := changed || b;
            END IF;
            user_changed := false;
            user_pending := false;
            SELECT * INTO b FROM billing_balance WHERE user_id = e.user_id FOR NO KEY UPDATE;
        END IF;

        refusal := NULL;
        is_replay := false;
        t := NULL;
        real_change := coalesce(e.amount, 0);
        bonus_change := coalesce(e.bonus_amount, 0);

        -- Looking for earlier transactions of the user, below, must find those of this batch too.
        IF user_pending AND (e.idempotency_key IS NOT NULL OR e.reverses IS NOT NULL) THEN
            INSERT INTO billing_transaction SELECT * FROM unnest(pending);
            pending := '{}';
            user_pending := false;
        END IF;

        -- What the entry says by itself, the key, and what the caller saw.
        IF b.user_id IS NULL THEN
            refusal := jsonb_build_object('code', 'unknown_user', 'user_id', e.user_id);
        ELSIF billing_amount_problem(real_change) IS NOT NULL THEN
            refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'amount',
                'reason', billing_amount_problem(real_change), 'value', real_change::text);
        ELSIF billing_amount_problem(bonus_change) IS NOT NULL THEN
            refusal := jsonb_build_object('code', 'invalid_amount', 'field', 'bonus_amount',
                'reason', billing_amount_problem(bonus_change), 'value', bonus_change::text);
        ELSIF coalesce(char_length(btrim(e.description)), 0) NOT BETWEEN 5 AND 200 THEN
            refusal := jsonb_build_object('code', 'invalid_description');
        ELSE
            IF e.idempotency_key IS NOT NULL THEN
                SELECT * INTO t FROM billing_transaction x
                WHERE x.user_id = e.user_id AND x.idempotency_key = e.idempotency_key;
                is_replay := FOUND;
            END IF;
            is_same := (t.type, t.description, t.metadata, t.reverses)
                IS NOT DISTINCT FROM
                    (e.type, btrim(e.description), coalesce(e.metadata, '{}'), e.reverses)
                AND CASE t.type
                    WHEN 'reversal' THEN true
                    WHEN 'tariff_charge' THEN
                        (t.subtype, t.device, t.amount + t.bonus_amount, 0::numeric)
                        = (e.subtype, coalesce(e.device, ''), real_change, bonus_change)
                    ELSE
                        (t.subtype, t.device, t.amount, t.bonus_amount)
                        = (e.subtype, coalesce(e.device, ''), real_change, bonus_change)
                END;
            IF is_replay AND NOT is_same THEN
                refusal := jsonb_build_object('code', 'idempotency_conflict', 'number', t.number);
            ELSIF NOT is_replay AND e.expected_number <> b.last_number THEN
                refusal := jsonb_build_object('code', 'balance_moved', 'number', b.last_number,
                    'expected_number', e.expected_number,
                    'balance', b.real::text, 'bonus', b.bonus::text);
            END IF;
        END IF;

        -- How the amount falls on the two balances.
        IF refusal IS NULL AND NOT is_replay THEN
            t := NULL;
            t.type := e.type;
            t.subtype := e.subtype;
            t.device := coalesce(e.device, '');
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
                    t.subtype := original.type;
                    t.device := original.device;
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

        -- Whether the balances can take it.
        IF refusal IS NULL AND NOT is_replay THEN
            refusal := CASE
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
            END;
        END IF;

        "position" := e.place;
        IF refusal IS NOT NULL THEN
            IF NOT skip_refused THEN
                RAISE EXCEPTION 'entry % (user %) was refused: %',
                        e.place, e.user_id, refusal ->> 'code'
                    USING ERRCODE = 'BL001', DETAIL = refusal || jsonb_build_object('entry', e.place);
            END IF;
            outcome := 'refused';
            posted := NULL;
        ELSIF is_replay THEN
            outcome := 'replayed';
            posted := t;
        ELSE
            t.id := nextval('billing_transaction_id_seq');
            t.user_id := e.user_id;
            t.number := b.last_number + 1;
            t.description := btrim(e.description);
            t.amount := real_change;
            t.old_balance := b.real;
            t.new_balance := b.real + real_change;
            t.bonus_amount := bonus_change;
            t.old_bonus := b.bonus;
            t.new_bonus := b.bonus + bonus_change;
            t.refilled := b.refilled + greatest(real_change, 0);
            t.bonus_refilled := b.bonus_refilled + greatest(bonus_change, 0);
            -- The clock, read under the lock; never back, should the clock itself go back.
            t.created_at := greatest(clock_timestamp(), b.last_at);
            t.actor_id := acting_user_id;
            t.channel := via_channel;
            t.idempotency_key := e.idempotency_key;
            t.reverses := e.reverses;
            t.metadata := coalesce(e.metadata, '{}');
            t.digest := billing_digest(t, b.last_digest);
            pending := pending || t;
            user_pending := true;
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
        END IF;
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
$$;

-- The number of a user's last transaction not later than `moment`; 0 if there is none. Times never
-- go back along the numbers and the numbers have no gaps, so it is found by halving.
CREATE FUNCTION billing_number_at(of_user_id bigint, moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE AS $$
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
$$;

-- Guard of billing_transaction: UPDATE, DELETE and TRUNCATE.
CREATE FUNCTION billing_refuse_rewriting_history() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Transactions are append-only: % is refused.', TG_OP
        USING ERRCODE = 'BL002',
              HINT = 'Correct a mistake with a further transaction: billing.ledger.reverse.';
END
$$;

-- Guard of billing_balance: DELETE and TRUNCATE.
CREATE FUNCTION billing_refuse_balance_removal() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'Balances are kept for ever: % is refused.', TG_OP USING ERRCODE = 'BL002';
END
$$;

-- Guard of billing_balance: a balance is what the user's last transaction left; none, none.
CREATE FUNCTION billing_check_balance() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    now_is billing_balance;
    last billing_transaction;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.user_id <> OLD.user_id THEN
        RAISE EXCEPTION 'A balance stays with its user.' USING ERRCODE = 'BL002';
    END IF;
    -- The row as it is at commit; NEW may be an earlier state of it within this transaction.
    SELECT * INTO now_is FROM billing_balance WHERE user_id = NEW.user_id;
    SELECT * INTO last FROM billing_transaction
        WHERE user_id = NEW.user_id ORDER BY number DESC LIMIT 1;
    IF (now_is.real, now_is.bonus, now_is.refilled, now_is.bonus_refilled,
        now_is.last_number, now_is.last_digest, now_is.last_at)
    IS DISTINCT FROM
       (coalesce(last.new_balance, 0), coalesce(last.new_bonus, 0),
        coalesce(last.refilled, 0), coalesce(last.bonus_refilled, 0),
        coalesce(last.number, 0), coalesce(last.digest, ''), last.created_at)
    THEN
        RAISE EXCEPTION 'The balance of user % does not match the last transaction.', NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Balances change with a transaction only: billing.ledger.change_balance.';
    END IF;
    RETURN NULL;
END
$$;

-- Guard of billing_transaction: a row continues the user's row before it and has its digest, a
-- reversal is the opposite of what it reverses, and the balance row has come at least this far.
CREATE FUNCTION billing_check_transaction() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    previous billing_transaction;
    original billing_transaction;
BEGIN
    SELECT * INTO previous FROM billing_transaction
        WHERE user_id = NEW.user_id AND number = NEW.number - 1;
    IF NEW.number > 1 AND previous.id IS NULL
        OR NEW.old_balance <> coalesce(previous.new_balance, 0)
        OR NEW.old_bonus <> coalesce(previous.new_bonus, 0)
        OR NEW.refilled <> coalesce(previous.refilled, 0) + greatest(NEW.amount, 0)
        OR NEW.bonus_refilled
            <> coalesce(previous.bonus_refilled, 0) + greatest(NEW.bonus_amount, 0)
        OR NEW.created_at < previous.created_at
        OR NEW.digest <> billing_digest(NEW, coalesce(previous.digest, ''))
        OR NEW.number > (SELECT last_number FROM billing_balance WHERE user_id = NEW.user_id)
    THEN
        RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    IF NEW.type = 'reversal' THEN
        SELECT * INTO original FROM billing_transaction
            WHERE user_id = NEW.user_id AND number = NEW.reverses;
        IF original.type = 'reversal'
            OR (NEW.amount, NEW.bonus_amount, NEW.subtype)
                IS DISTINCT FROM (-original.amount, -original.bonus_amount, original.type::text)
        THEN
            RAISE EXCEPTION 'Transaction % of user % is not the reverse of number %.',
                    NEW.number, NEW.user_id, NEW.reverses
                USING ERRCODE = 'BL002';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- Every user has a balance, however the user was created.
CREATE FUNCTION billing_open_balance() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO billing_balance (user_id) VALUES (NEW.id) ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_open_balance AFTER INSERT ON users_user
    FOR EACH ROW EXECUTE FUNCTION billing_open_balance();

INSERT INTO billing_balance (user_id) SELECT id FROM users_user ON CONFLICT DO NOTHING;

-- A balance row is updated with every transaction: room on its page keeps the new version there,
-- without touching the index.
ALTER TABLE billing_balance SET (fillfactor = 50);
