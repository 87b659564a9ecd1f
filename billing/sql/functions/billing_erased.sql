-- Returns the data of an event without what it says about a person. What was erased is null. (Only
-- what was noted before there were events has names and free wordings.)
CREATE OR REPLACE FUNCTION public.billing_erased(action text, data jsonb)
 RETURNS jsonb
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
AS $function$
    SELECT CASE WHEN action = 'noted' THEN data || '{"name": null, "message": null}' ELSE data END
$function$;
