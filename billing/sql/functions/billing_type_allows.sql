-- Returns true if a transaction of this type may have these values: balances of zero or more, known
-- codes and the debit order. Never NULL: everything that is not plainly allowed is false.
--
-- A function in SQL becomes a part of the expression that calls it.
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
