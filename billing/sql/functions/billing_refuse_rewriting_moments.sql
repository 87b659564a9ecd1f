-- Guard of billing_activation and billing_planterms: UPDATE, DELETE and TRUNCATE.
CREATE OR REPLACE FUNCTION public.billing_refuse_rewriting_moments()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    RAISE EXCEPTION 'When something was so is append-only: % of % is refused.',
        TG_OP, TG_TABLE_NAME USING ERRCODE = 'BL002';
END
$function$;
