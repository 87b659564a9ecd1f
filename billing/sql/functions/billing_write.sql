-- Writes transactions with the grants that they gave and the uses of grants that they took. Each in
-- one statement: checking a table's constraints costs more for a statement than for a row. Only
-- `billing_post` calls it, with its own settings.
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
