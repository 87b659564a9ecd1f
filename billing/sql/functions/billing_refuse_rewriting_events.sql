-- Guard of billing_event: UPDATE, DELETE and TRUNCATE. Of events of a user who is forgotten, what they
-- say about the person can be erased, once; billing_check_event demands the record of it.
CREATE OR REPLACE FUNCTION public.billing_refuse_rewriting_events()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF NEW.data <> OLD.data AND NEW.data = billing_erased(OLD.action, OLD.data)
            AND to_jsonb(NEW) - 'data' = to_jsonb(OLD) - 'data'
            AND NEW.subject = 'user' AND EXISTS (
                SELECT FROM users_user u WHERE u.id = NEW.subject_id AND u.forgotten_at IS NOT NULL
            )
        THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'Events are append-only: % is refused.', TG_OP USING ERRCODE = 'BL002';
END
$function$;
