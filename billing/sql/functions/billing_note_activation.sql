-- Stores the moments from which a user is active or deactivated: days without service cost nothing,
-- however late the charging run is.
CREATE OR REPLACE FUNCTION public.billing_note_activation()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    INSERT INTO billing_activation (user_id, is_active) VALUES (NEW.id, NEW.is_active);
    RETURN NULL;
END
$function$;
