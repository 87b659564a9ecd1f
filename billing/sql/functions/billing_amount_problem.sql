-- Returns why `amount` is not an amount of money, or NULL if it is one. numeric accepts NaN,
-- infinities and any scale.
CREATE OR REPLACE FUNCTION public.billing_amount_problem(amount numeric)
 RETURNS text
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE
        WHEN amount IS NULL OR amount IN ('NaN', 'Infinity', '-Infinity') THEN 'not_a_number'
        WHEN scale(amount) > 4 THEN 'too_many_decimals'
        WHEN abs(amount) > 999999999999999.9999 THEN 'out_of_range'
    END
$function$;
