-- Guard of billing_transaction, before each row: a row is right by itself and continues the user's
-- row before it. Its digest is made here; whoever brings one must bring the right one.
--
-- It reads only the row and its neighbour by (user_id, number). The conditions stand here instead of
-- in constraints: PostgreSQL parses a table's constraints for each statement that writes to it, but
-- a function only once.
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
