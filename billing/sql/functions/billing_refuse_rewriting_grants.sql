-- Guard of billing_grant and billing_grantuse: grants are never removed, their uses never changed.
CREATE OR REPLACE FUNCTION public.billing_refuse_rewriting_grants()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'Grants and their uses are kept: % is refused.', TG_OP
        USING ERRCODE = 'BL002',
              HINT = 'Correct a mistake with a further transaction: billing.ledger.reverse.';
END
$function$;
