-- Returns the number of a user's last transaction at or before `moment`; 0 if there is none. Times
-- never go back along the numbers and the numbers have no gaps, so a binary search finds it.
CREATE OR REPLACE FUNCTION public.billing_number_at(of_user_id bigint, moment timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
 STABLE
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    low bigint := 0;
    high bigint := coalesce(
        (SELECT last_number FROM billing_balance WHERE user_id = of_user_id), 0);
    middle bigint;
BEGIN
    WHILE low < high LOOP
        middle := (low + high + 1) / 2;
        IF (SELECT created_at FROM billing_transaction
            WHERE user_id = of_user_id AND number = middle) <= moment
        THEN low := middle;
        ELSE high := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END
$function$;
