-- Returns why a transaction cannot have this reason, as a refusal; NULL if it can.
CREATE OR REPLACE FUNCTION public.billing_reason_problem(reason text, type text, description text, real_change numeric, bonus_change numeric)
 RETURNS jsonb
 LANGUAGE plpgsql
 STABLE
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    r billing_reason;
    why text;
BEGIN
    SELECT * INTO r FROM billing_reason x WHERE x.code = reason;
    IF NOT FOUND THEN
        RETURN jsonb_build_object('code', 'unknown_reason', 'reason', reason);
    END IF;
    why := CASE
        WHEN NOT r.is_active THEN 'retired'
        WHEN type NOT IN ('payment', 'bonus_charge', 'reversal') THEN 'type'
        -- A reversal does the opposite of another transaction, whatever that is.
        WHEN type = 'reversal' THEN NULL
        WHEN r.balances = 'real' AND bonus_change <> 0 THEN 'real_only'
        WHEN r.balances = 'bonus' AND real_change <> 0 THEN 'bonus_only'
        WHEN r.direction = 'adds' AND least(real_change, bonus_change) < 0 THEN 'adds_only'
        WHEN r.direction = 'takes' AND greatest(real_change, bonus_change) > 0 THEN 'takes_only'
    END;
    IF why IS NULL THEN
        why := CASE
            WHEN EXISTS (
                SELECT FROM regexp_matches(r.template, '\{[^{}]+\}', 'g') AS field
                WHERE strpos(description, field[1]) > 0
            ) THEN 'fields'
            WHEN r.is_comment_required AND description = r.template THEN 'comment'
        END;
    END IF;
    IF why IS NULL THEN
        RETURN NULL;
    END IF;
    RETURN jsonb_build_object(
        'code', 'reason_refused', 'reason', reason, 'why', why, 'label', r.label);
END
$function$;
