DROP TRIGGER balances_match_the_last_transaction ON billing_balance;
DROP TRIGGER billing_resume_after_refill ON billing_balance;
DROP TRIGGER transactions_follow_each_other ON billing_transaction;
DROP FUNCTION billing_expiry(public.billing_balance, public.billing_grant, timestamp with time zone);
DROP FUNCTION billing_resume_after_refill();
DROP FUNCTION billing_type_allows(character varying, character varying, character varying, numeric, numeric, numeric, numeric, bigint);
DROP FUNCTION billing_write(public.billing_transaction[], public.billing_grant[], public.billing_grantuse[]);

-- An entry as `billing_post` takes it, and a transaction that is to be written: without the lengths
-- and decimals of the columns, which each assignment would check.
CREATE TYPE billing_entry AS (
    user_id bigint, type text, subtype text, description text, device text,
    amount numeric, bonus_amount numeric, idempotency_key text,
    expected_number bigint, reverses bigint, metadata jsonb,
    payment_date date, bonus_expires_at timestamptz, reason text, batch bigint
);
CREATE TYPE billing_posting AS (
    id bigint, number bigint, type text, subtype text, description text, device text,
    amount numeric, old_balance numeric, new_balance numeric,
    bonus_amount numeric, old_bonus numeric, new_bonus numeric,
    refilled numeric, bonus_refilled numeric, created_at timestamptz, channel text,
    idempotency_key text, reverses bigint, metadata jsonb, digest bytea,
    actor_id bigint, user_id bigint, payment_date date, bonus_expires_at timestamptz,
    form integer, reason_id text, batch_id bigint
);

CREATE OR REPLACE FUNCTION public.billing_canonical(previous_digest bytea, id bigint, user_id bigint, number bigint, type text, subtype text, description text, device text, amount numeric, old_balance numeric, new_balance numeric, bonus_amount numeric, old_bonus numeric, new_bonus numeric, refilled numeric, bonus_refilled numeric, created_at timestamp with time zone, actor_id bigint, channel text, idempotency_key text, reverses bigint, metadata jsonb, further jsonb)
 RETURNS text
 LANGUAGE sql
 STABLE PARALLEL SAFE
AS $function$
    SELECT format(
        '["%s", "%s", "%s", "%s", "%s", "%s", %s, %s, '
        '"%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", "%s", %s, "%s", %s, %s, %s%s]',
        encode(previous_digest, 'hex'), id, user_id, number,
        type, subtype, to_json(description), to_json(device),
        amount, old_balance, new_balance, bonus_amount, old_bonus, new_bonus,
        refilled, bonus_refilled,
        to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        coalesce('"' || actor_id || '"', 'null'), channel,
        coalesce(to_json(idempotency_key), 'null'), coalesce('"' || reverses || '"', 'null'),
        to_json(metadata::text), ', ' || to_json(further::text)
    )
$function$;

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

CREATE OR REPLACE FUNCTION public.billing_continue_history()
 RETURNS trigger
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    balance numeric := 0;      -- as the row before left it
    bonus numeric := 0;
    refilled numeric := 0;
    bonus_refilled numeric := 0;
    at timestamptz := '2000-01-01Z';
    digest bytea := '';
    is_right boolean;
BEGIN
    IF NOT billing_type_allows(
        NEW.type, NEW.subtype, NEW.channel, NEW.amount, NEW.bonus_amount,
        NEW.new_balance, NEW.new_bonus, NEW.reverses
    ) THEN
        RAISE EXCEPTION 'Transaction % of user % violates a_transaction_does_what_its_type_allows.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'check_violation',
                  CONSTRAINT = 'a_transaction_does_what_its_type_allows',
                  TABLE = 'billing_transaction', SCHEMA = 'public',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    is_right := NEW.new_balance = NEW.old_balance + NEW.amount
        AND NEW.new_bonus = NEW.old_bonus + NEW.bonus_amount
        AND (NEW.amount <> 0 OR NEW.bonus_amount <> 0)
        AND length(btrim(NEW.description)) >= 5;
    IF NEW.form = 2 THEN
        is_right := is_right
            AND (NEW.payment_date IS NULL
                OR NEW.type = 'payment'
                    AND NEW.payment_date BETWEEN '2000-01-01' AND '9000-01-01')
            AND (NEW.bonus_expires_at IS NULL
                OR NEW.bonus_amount > 0 AND NEW.type IN ('payment', 'bonus_charge')
                    AND NEW.bonus_expires_at BETWEEN '2000-01-01Z' AND '9001-01-02Z')
            AND (NEW.reason_id IS NULL OR NEW.type IN ('payment', 'bonus_charge', 'reversal'));
    ELSIF NEW.form <> 1 OR num_nonnulls(
        NEW.payment_date, NEW.bonus_expires_at, NEW.reason_id, NEW.batch_id) <> 0
    THEN
        is_right := false;
    END IF;
    IF is_right IS NOT TRUE THEN
        RAISE EXCEPTION 'Transaction % of user % is wrong by itself.', NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    IF NEW.number <> 1 THEN
        SELECT p.new_balance, p.new_bonus, p.refilled, p.bonus_refilled, p.created_at, p.digest
        INTO balance, bonus, refilled, bonus_refilled, at, digest
        FROM billing_transaction p
        WHERE p.user_id = NEW.user_id AND p.number = NEW.number - 1;
    END IF;
    IF (NEW.old_balance = balance
        AND NEW.old_bonus = bonus
        AND NEW.refilled = refilled + greatest(NEW.amount, 0)
        AND NEW.bonus_refilled = bonus_refilled + greatest(NEW.bonus_amount, 0)
        -- Not of the future, which all later ones of the user would have to follow; a day is for
        -- a clock that was set back.
        AND NEW.created_at BETWEEN at AND clock_timestamp() + interval '1 day'
    ) IS NOT TRUE THEN
        RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                NEW.number, NEW.user_id
            USING ERRCODE = 'BL002',
                  HINT = 'Transactions are posted by billing.ledger only.';
    END IF;
    -- What it takes from grants, or gives back to them, is written after it: then the writer says the
    -- digest, and `billing_check_transaction` checks it.
    IF NEW.form = 1 OR NEW.bonus_amount = 0 OR NEW.bonus_amount > 0 AND NEW.reverses IS NULL THEN
        IF NEW.form = 1 THEN
            digest := sha256(convert_to(billing_canonical(
                digest,
                NEW.id, NEW.user_id, NEW.number, NEW.type, NEW.subtype, NEW.description, NEW.device,
                NEW.amount, NEW.old_balance, NEW.new_balance,
                NEW.bonus_amount, NEW.old_bonus, NEW.new_bonus, NEW.refilled, NEW.bonus_refilled,
                NEW.created_at, NEW.actor_id, NEW.channel, NEW.idempotency_key, NEW.reverses,
                NEW.metadata, NULL
            ), 'UTF8'));
        ELSE
            digest := billing_digest(NEW, digest, NULL);
        END IF;
        IF NEW.digest <> digest THEN
            RAISE EXCEPTION 'Transaction % of user % does not follow the one before it.',
                    NEW.number, NEW.user_id
                USING ERRCODE = 'BL002', DETAIL = 'It has another digest.',
                      HINT = 'Transactions are posted by billing.ledger only.';
        END IF;
        NEW.digest := digest;
    END IF;
    RETURN NEW;
END
$function$;

CREATE OR REPLACE FUNCTION public.billing_digest(t public.billing_transaction, previous_digest bytea, uses jsonb)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN sha256(convert_to(billing_canonical(
        previous_digest,
        t.id, t.user_id, t.number, t.type, t.subtype, t.description, t.device,
        t.amount, t.old_balance, t.new_balance, t.bonus_amount, t.old_bonus, t.new_bonus,
        t.refilled, t.bonus_refilled, t.created_at, t.actor_id, t.channel, t.idempotency_key,
        t.reverses, t.metadata,
        -- Form 2 says what form 1 has no place for.
        CASE WHEN t.form = 2 THEN jsonb_strip_nulls(jsonb_build_object(
            'uses', uses,
            'payment_date', to_char(t.payment_date::timestamp, 'YYYY-MM-DD'),
            'bonus_expires_at', to_char(
                t.bonus_expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'reason', t.reason_id,
            'batch', t.batch_id::text
        )) END
    ), 'UTF8'));
END
$function$;

CREATE OR REPLACE FUNCTION public.billing_expiry(b public.billing_balance, g public.billing_grant, moment timestamp with time zone)
 RETURNS public.billing_posting
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    t billing_posting;
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
    t.digest := billing_digest(ROW(t.*)::billing_transaction, b.last_digest, jsonb_build_array(
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

CREATE OR REPLACE FUNCTION public.billing_type_allows(type text, subtype text, channel text, amount numeric, bonus_amount numeric, new_balance numeric, new_bonus numeric, reverses bigint)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT (
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
    ) IS TRUE
$function$;

CREATE OR REPLACE FUNCTION public.billing_write(pending public.billing_posting[], given public.billing_grant[], uses public.billing_grantuse[])
 RETURNS bytea
 LANGUAGE plpgsql
AS $function$
DECLARE
    digest bytea;
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
    SELECT t.digest INTO digest FROM billing_transaction t
    WHERE t.id = pending[cardinality(pending)].id;
    RETURN digest;
END
$function$;

CREATE TRIGGER balances_match_the_last_transaction
    AFTER INSERT OR UPDATE ON public.billing_balance
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_balance();

CREATE TRIGGER transactions_follow_each_other
    BEFORE INSERT ON public.billing_transaction
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_continue_history();

CREATE CONSTRAINT TRIGGER transactions_move_their_balance
    AFTER INSERT ON public.billing_transaction
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_check_transaction();

REVOKE ALL ON FUNCTION
    billing_canonical(
        bytea, bigint, bigint, bigint, text, text, text, text, numeric, numeric, numeric, numeric,
        numeric, numeric, numeric, numeric, timestamptz, bigint, text, text, bigint, jsonb, jsonb),
    billing_continue_history(),
    billing_expiry(billing_balance, billing_grant, timestamptz),
    billing_type_allows(text, text, text, numeric, numeric, numeric, numeric, bigint),
    billing_write(billing_posting[], billing_grant[], billing_grantuse[])
    FROM PUBLIC;
