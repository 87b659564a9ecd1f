-- Guard of billing_event: a row continues the previous row of its subject and has the right digest.
CREATE OR REPLACE FUNCTION public.billing_check_event()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    previous billing_event;
BEGIN
    SELECT * INTO previous FROM billing_event e
    WHERE e.subject = NEW.subject AND e.subject_id = NEW.subject_id AND e.number = NEW.number - 1;
    IF (NEW.number = 1 OR previous.created_at <= NEW.created_at)
        AND NEW.number >= 1
        AND NEW.created_at BETWEEN '2000-01-01Z' AND clock_timestamp() + interval '1 day'
        AND NEW.digest = billing_event_digest(NEW, coalesce(previous.digest, ''))
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'Event % of % % does not follow the one before it.',
            NEW.number, NEW.subject, NEW.subject_id
        USING ERRCODE = 'BL002', HINT = 'Events are written by billing.events only.';
END
$function$;
