-- The ledger's functions. billing/ledger.py calls billing_post; the guards declared at the models
-- (billing/models/guards.py) call the billing_check_* and billing_refuse_* functions; a constraint
-- of billing_transaction calls billing_type_allows.

-- The digest of a transaction: SHA-256 over its canonical form, which docs/ledger.md describes.
-- PL/pgSQL prepares the long expression once per transaction; in SQL, each caller would.
CREATE FUNCTION billing_digest(t billing_transaction, previous_digest bytea) RETURNS bytea
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
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

-- Whether a transaction of this type may look like this: the codes there are, and the debit order.
-- For a constraint, which takes NULL for consent: hence the answer is never NULL, and anything
-- that is not plainly allowed is not.
CREATE FUNCTION billing_type_allows(
    type varchar, subtype varchar, channel varchar,
    amount numeric, bonus_amount numeric, new_bonus numeric, reverses bigint
) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, public, pg_temp AS $$
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
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    max_money CONSTANT numeric := 999999999999999.9999;
    e record;                  -- the current entry
    b billing_balance;         -- the locked balance row of its user
    t billing_transaction;     -- what becomes of it
    original billing_transaction;
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
                IF (t.type, t.description, t.metadata, t.reverses)
                    IS NOT DISTINCT FROM (e.type, e.description, e.metadata, e.reverses)
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

        -- Whether the balances can take it.
        IF refusal IS NULL AND (
            real_change = 0 AND bonus_change = 0
            OR b.real + real_change NOT BETWEEN 0 AND max_money
            OR b.bonus + bonus_change NOT BETWEEN 0 AND max_money
        ) THEN
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
            -- created_at: the clock, read under the lock; never back, should the clock go back
            greatest(clock_timestamp(), b.last_at),
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
$$;

-- The number of a user's last transaction not later than `moment`; 0 if there is none. Times never
-- go back along the numbers and the numbers have no gaps, so it is found by halving.
CREATE FUNCTION billing_number_at(of_user_id bigint, moment timestamptz) RETURNS bigint
LANGUAGE plpgsql STABLE SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
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

-- Guard of billing_balance: a balance is what the user's last transaction left; none, none. Each
-- state of the row must be what the transaction of its number left, and numbers never go back;
-- that no transaction has a higher number is the guard of billing_transaction's part.
CREATE FUNCTION billing_check_balance() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
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
$$;

-- Guard of billing_transaction: a row continues the user's row before it and has its digest, a
-- reversal is the opposite of what it reverses, and the balance row has come at least this far.
CREATE FUNCTION billing_check_transaction() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
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
$$;

-- Every user has a balance, however the user was created.
CREATE FUNCTION billing_open_balance() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
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
