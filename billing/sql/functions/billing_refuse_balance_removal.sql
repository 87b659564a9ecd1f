-- Guard of billing_balance: DELETE and TRUNCATE.
CREATE OR REPLACE FUNCTION public.billing_refuse_balance_removal()
 RETURNS trigger
 LANGUAGE plpgsql
AS $function$
BEGIN
    RAISE EXCEPTION 'Balances are kept for ever: % is refused.', TG_OP USING ERRCODE = 'BL002';
END
$function$;
