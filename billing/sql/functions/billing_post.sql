-- Posts a batch of entries in order, each to one user's two balances. A single entry is a batch
-- of one.
--
-- `entries` is a JSON array of objects:
--     user_id, type, subtype, description, device, amount, bonus_amount, idempotency_key,
--     expected_number, reverses, metadata, payment_date, bonus_expires_at, reason, batch
-- Amounts are signed strings. A `tariff_charge` has its whole cost as a negative `amount`, which is
-- taken from the bonus balance first. A `reversal` names the transaction that it `reverses`, and as
-- `amount` how much of it (positive), or 0 for all that is left of it. A `bonus_expiry` posts what
-- has expired of its user's grants, and nothing else.
--
-- Bonus money that is added becomes a grant. Bonus money that is taken comes from grants, soonest
-- expiry first, and leaves a use for each. A grant that has expired is posted as a `bonus_expiry`
-- before anything else of its user.
--
-- Balance rows are locked in the order of user IDs before anything is checked, so batches cannot
-- deadlock and no check can become outdated. Entries of one user keep their order.
--
-- Returns a row for each entry: its position (from 1), its outcome (posted, replayed or refused),
-- the refusal as {"code", figures…}, and the transaction. Unless `skip_refused`, the first refusal
-- raises BL001 with the refusal as DETAIL, and nothing of the batch is posted.
--
-- It runs with its owner's rights and is the only writer of balances and transactions: its callers
-- need no right to write these tables. The time of a transaction comes from the database's clock,
-- never from the caller.
CREATE OR REPLACE FUNCTION public.billing_post(entries jsonb, acting_user_id bigint, via_channel text, skip_refused boolean DEFAULT false)
 RETURNS TABLE("position" bigint, outcome text, refusal jsonb, posted public.billing_transaction)
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    max_money CONSTANT numeric := 999999999999999.9999;
    -- What an entry leaves out.
    usual CONSTANT billing_entry := ROW(
        NULL, NULL, NULL, NULL, '', 0, 0, NULL, NULL, NULL, '{}', NULL, NULL, NULL, NULL
    )::billing_entry;
    places bigint[] := '{}';   -- the places of all entries, in the order of posting
    e billing_entry;           -- the current entry
    place bigint;              -- where it stands in `entries`, from 1
    b billing_balance;         -- the locked balance row of its user
    t billing_posting;         -- what becomes of it
    earlier billing_transaction;  -- with the same idempotency key
    original billing_transaction; -- that is reversed
    clock timestamptz;
    real_change numeric;
    bonus_change numeric;
    -- Written in one statement each, at the end: a statement costs more than a row.
    pending billing_posting[];
    pending_places bigint[];   -- of their entries; NULL for an expiry, which none asked for
    reached bigint;            -- the number that the current user's balance moves to; NULL: none
    user_keys text[];          -- the idempotency keys of this user's rows in `pending`
    moved_users bigint[];      -- whose balances move, and which number each reaches
    moved_to bigint[];
    written billing_posting[]; -- what was written, also before the end, if later entries need it
    written_places bigint[];
    refilled_users bigint[];   -- who may have subscriptions that were suspended for lack of money
    digest bytea;
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
    IF jsonb_array_length(entries) > 1 THEN
        places := ARRAY(
            SELECT x.place FROM jsonb_array_elements(entries) WITH ORDINALITY x (entry, place)
            ORDER BY (x.entry ->> 'user_id')::bigint, x.place
        );
    ELSIF jsonb_array_length(entries) = 1 THEN
        places := '{1}';
    END IF;
    FOREACH place IN ARRAY places LOOP
        e := jsonb_populate_record(usual, entries -> (place - 1)::integer);
        IF num_nulls(e.device, e.amount, e.bonus_amount, e.metadata) > 0 THEN
            e.device := coalesce(e.device, usual.device);
            e.amount := coalesce(e.amount, 0);
            e.bonus_amount := coalesce(e.bonus_amount, 0);
            e.metadata := coalesce(e.metadata, usual.metadata);
        END IF;
        e.description := btrim(e.description);
        IF b.user_id IS DISTINCT FROM e.user_id THEN
            IF reached IS NOT NULL THEN
                moved_users := moved_users || b.user_id;
                moved_to := moved_to || reached;
                reached := NULL;
                user_keys := NULL;
            END IF;
            SELECT * INTO b FROM billing_balance x WHERE x.user_id = e.user_id FOR NO KEY UPDATE;
        ELSIF reached > b.last_number THEN
            b := ROW(
                b.user_id, t.new_balance, t.new_bonus, t.refilled, t.bonus_refilled, t.number,
                t.digest, t.created_at, b.grants_since
            );
        END IF;
        IF has_moved
            OR reached IS NOT NULL AND (
                e.reverses IS NOT NULL OR e.idempotency_key = ANY (user_keys))
        THEN
            -- What is looked for below, earlier transactions of the user and what is left of
            -- grants, must include that of this batch.
            digest := billing_write(pending, given, uses);
            b.last_digest := coalesce(b.last_digest, digest);
            written := written || pending;
            written_places := written_places || pending_places;
            pending := NULL;
            pending_places := NULL;
            given := NULL;
            uses := NULL;
            has_moved := false;
            user_keys := NULL;
        END IF;

        clock := clock_timestamp();  -- under the lock

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
                    'payment_date', to_char(e.payment_date::timestamp, 'YYYY-MM-DD'))
            END;

        -- The idempotency key: used before for the same, it returns the transaction of that time.
        ELSIF e.idempotency_key IS NOT NULL THEN
            SELECT * INTO earlier FROM billing_transaction x
            WHERE x.user_id = e.user_id AND x.idempotency_key = e.idempotency_key;
            IF FOUND THEN
                -- Which request or batch brought it is not content: a repeated call is another.
                IF (earlier.type, earlier.description, earlier.metadata - 'request_id',
                        earlier.reverses, earlier.payment_date, earlier.bonus_expires_at,
                        earlier.reason_id)
                    IS NOT DISTINCT FROM
                    (e.type, e.description, e.metadata - 'request_id', e.reverses, e.payment_date,
                        e.bonus_expires_at, e.reason)
                    AND (CASE earlier.type
                        WHEN 'reversal' THEN
                            -- Its amount or, without one, all that was left then.
                            abs(earlier.amount + earlier.bonus_amount) = CASE e.amount WHEN 0 THEN (
                                SELECT abs(sum(x.amount + x.bonus_amount))
                                FROM billing_transaction x
                                WHERE x.user_id = earlier.user_id AND (x.number = earlier.reverses
                                    OR x.reverses = earlier.reverses AND x.number < earlier.number)
                            ) ELSE e.amount END
                        WHEN 'tariff_charge' THEN
                            (earlier.subtype, earlier.device,
                                earlier.amount + earlier.bonus_amount, 0::numeric)
                            = (e.subtype, e.device, e.amount, e.bonus_amount)
                        ELSE
                            (earlier.subtype, earlier.device, earlier.amount, earlier.bonus_amount)
                            = (e.subtype, e.device, e.amount, e.bonus_amount)
                    END)
                THEN
                    "position" := place;
                    outcome := 'replayed';
                    posted := earlier;
                    RETURN NEXT;
                    CONTINUE;
                END IF;
                refusal := jsonb_build_object(
                    'code', 'idempotency_conflict', 'number', earlier.number);
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
                    pending_places := pending_places || NULL::bigint;
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
                reached := t.number;
                -- A reversal looks for what the expiries took, too.
                PERFORM billing_write(pending, given, uses);
                written := written || pending;
                written_places := written_places || pending_places;
                pending := NULL;
                pending_places := NULL;
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
                            SELECT x FROM unnest(spendable) x
                            WHERE x.number = e.reverses AND b.bonus > 0);
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
            OR e.bonus_expires_at <= clock OR e.bonus_expires_at >= '9001-01-02Z'
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
                WHEN e.bonus_expires_at >= '9001-01-02Z' THEN
                    jsonb_build_object('code', 'invalid_expiry', 'reason', 'too_far')
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
                        place, e.user_id, refusal ->> 'code'
                    USING ERRCODE = 'BL001', DETAIL = refusal || jsonb_build_object('entry', place);
            END IF;
            "position" := place;
            outcome := 'refused';
            posted := NULL;
            RETURN NEXT;
            refusal := NULL;
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
        -- time. The order is that of the table's columns. The type has no lengths: a cast to the
        -- table's own would shorten a text that is too long, which the table refuses.
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
            NULL::bytea,                                      -- digest: the guard makes it
            acting_user_id,                                   -- actor_id
            e.user_id,
            e.payment_date,
            e.bonus_expires_at,
            CASE WHEN bonus_change <> 0 AND used IS NOT NULL OR e.payment_date IS NOT NULL
                OR e.bonus_expires_at IS NOT NULL OR e.reason IS NOT NULL
                OR e.batch IS NOT NULL THEN 2 ELSE 1 END,     -- form
            e.reason,
            e.batch
        )::billing_posting;
        IF b.bonus > 0 OR e.reverses IS NOT NULL THEN
            -- The guard cannot know the uses, which are written later.
            t.digest := billing_digest(
                ROW(t.*)::billing_transaction, b.last_digest,
                CASE WHEN bonus_change <> 0 THEN used END
            );
        END IF;
        pending := pending || t;
        pending_places := pending_places || place;
        IF t.idempotency_key IS NOT NULL THEN
            user_keys := user_keys || e.idempotency_key;
        END IF;
        reached := t.number;
    END LOOP;
    IF written IS NULL AND moved_users IS NULL AND cardinality(pending) = 1
        AND has_moved IS NOT TRUE
    THEN
        -- One alone costs less.
        INSERT INTO billing_transaction SELECT * FROM unnest(pending) RETURNING * INTO posted;
        "position" := pending_places[1];
        outcome := 'posted';
        RETURN NEXT;
        UPDATE billing_balance x SET
            real = posted.new_balance, bonus = posted.new_bonus,
            refilled = posted.refilled, bonus_refilled = posted.bonus_refilled,
            last_number = posted.number, last_digest = posted.digest, last_at = posted.created_at
        WHERE x.user_id = posted.user_id;
        IF posted.amount > 0 THEN
            refilled_users := ARRAY[posted.user_id];
        END IF;
    ELSE
        IF reached IS NOT NULL THEN
            moved_users := moved_users || b.user_id;
            moved_to := moved_to || reached;
        END IF;
        INSERT INTO billing_transaction SELECT * FROM unnest(pending);
        written := written || pending;
        written_places := written_places || pending_places;
        refilled_users := ARRAY(SELECT x.user_id FROM unnest(written) x WHERE x.amount > 0);
        IF given IS NOT NULL THEN
            INSERT INTO billing_grant (user_id, number, amount, remaining, uses, expires_at)
            SELECT x.user_id, x.number, x.amount, x.remaining, x.uses, x.expires_at
            FROM unnest(given) x;
        END IF;
        IF uses IS NOT NULL THEN
            INSERT INTO billing_grantuse SELECT * FROM unnest(uses);
        END IF;
        UPDATE billing_balance x SET
            real = y.new_balance, bonus = y.new_bonus,
            refilled = y.refilled, bonus_refilled = y.bonus_refilled,
            last_number = y.number, last_digest = y.digest, last_at = y.created_at
        FROM unnest(moved_users, moved_to) moved (user_id, number) JOIN billing_transaction y
            ON y.user_id = moved.user_id AND y.number = moved.number
        WHERE x.user_id = moved.user_id;
        RETURN QUERY SELECT w.place, 'posted', NULL::jsonb, y
        FROM unnest(written_places, written) w (place) JOIN billing_transaction y ON y.id = w.id
        WHERE w.place IS NOT NULL;
    END IF;
    -- Subscriptions that a refill can pay for resume soon.
    IF refilled_users IS NOT NULL THEN
        PERFORM billing_queue_resumption(x.user_id) FROM (
            SELECT DISTINCT s.user_id FROM billing_subscription s
            WHERE s.user_id = ANY (refilled_users)
                AND s.status = 'suspended' AND s.due_on IS NOT NULL
        ) x;
    END IF;
    IF gave_back IS NOT NULL THEN
        PERFORM billing_post(gave_back, NULL, 'system', true);
    END IF;
END
$function$;
