-- Notes how the numbers of customers and of active customers change, as a row that a job adds up
-- later: two people who are created at the same time do not wait for each other.
CREATE OR REPLACE FUNCTION public.billing_count_users()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    more integer := 0;
    more_active integer := 0;
BEGIN
    IF TG_OP <> 'INSERT' AND NOT OLD.is_staff THEN
        more := -1;
        more_active := -OLD.is_active::integer;
    END IF;
    IF TG_OP <> 'DELETE' AND NOT NEW.is_staff THEN
        more := more + 1;
        more_active := more_active + NEW.is_active::integer;
    END IF;
    IF more <> 0 OR more_active <> 0 THEN
        INSERT INTO billing_usercount (users, active_users) VALUES (more, more_active);
    END IF;
    RETURN NULL;
END
$function$;

REVOKE ALL ON FUNCTION billing_count_users() FROM PUBLIC;

-- The start page says how many users there are without counting them.
CREATE TRIGGER billing_count_users
    AFTER INSERT OR DELETE OR UPDATE OF is_active, is_staff ON public.users_user
    FOR EACH ROW
    EXECUTE FUNCTION public.billing_count_users();

INSERT INTO billing_usercount (users, active_users)
SELECT count(*), count(*) FILTER (WHERE is_active) FROM users_user WHERE NOT is_staff HAVING count(*) > 0;
