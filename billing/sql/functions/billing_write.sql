-- Writes transactions with the grants that they gave and the uses of grants that they took, each in
-- one statement, which costs more than a row. Returns the digest of the last transaction. Only
-- `billing_post` calls it, with its own settings.
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
