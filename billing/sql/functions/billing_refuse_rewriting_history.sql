-- Guard of billing_transaction: UPDATE, DELETE and TRUNCATE.
CREATE OR REPLACE FUNCTION public.billing_refuse_rewriting_history()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'Transactions are append-only: % is refused.', TG_OP
        USING ERRCODE = 'BL002',
              HINT = 'Correct a mistake with a further transaction: billing.ledger.reverse.';
END
$function$;
