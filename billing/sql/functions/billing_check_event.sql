-- Guard of billing_event: a row continues the previous row of its subject and has the right digest. A
-- row whose personal data was erased is listed, as it is now, by the user's event "forgotten". That
-- event lists exactly such rows, once, of a user who has neither money nor subscriptions.
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
    IF TG_OP = 'UPDATE' THEN
        PERFORM FROM billing_event e
        WHERE e.subject = NEW.subject AND e.subject_id = NEW.subject_id AND e.number > NEW.number
            AND e.action = 'forgotten' AND e.data -> 'events' @> jsonb_build_array(
                jsonb_build_object('number', NEW.number, 'digest', encode(NEW.digest, 'hex'),
                    'sha256', encode(sha256(convert_to(NEW.data::text, 'UTF8')), 'hex')));
        IF FOUND THEN
            RETURN NULL;
        END IF;
        RAISE EXCEPTION 'No event records that event % of % % was erased.',
                NEW.number, NEW.subject, NEW.subject_id
            USING ERRCODE = 'BL002', HINT = 'Persons are forgotten by billing_forget only.';
    END IF;
    IF NEW.action = 'forgotten' THEN
        PERFORM FROM users_user u JOIN billing_balance b ON b.user_id = u.id
        WHERE NEW.subject = 'user' AND u.id = NEW.subject_id
            AND u.forgotten_at IS NOT NULL AND NOT u.is_active AND b.real = 0 AND b.bonus = 0
            AND NEW.data = jsonb_build_object(
                'events', billing_erased_events(NEW.subject_id, NEW.number))
            AND NOT EXISTS (
                SELECT FROM billing_event e
                WHERE e.subject = 'user' AND e.subject_id = NEW.subject_id
                    AND e.action = 'forgotten' AND e.number < NEW.number)
            AND NOT EXISTS (
                SELECT FROM billing_subscription s
                WHERE s.user_id = NEW.subject_id AND s.status <> 'cancelled');
        IF NOT FOUND THEN
            RAISE EXCEPTION 'Event % of % % does not say how a closed user was forgotten.',
                    NEW.number, NEW.subject, NEW.subject_id
                USING ERRCODE = 'BL002', HINT = 'Persons are forgotten by billing_forget only.';
        END IF;
    END IF;
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
