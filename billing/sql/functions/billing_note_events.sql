-- Writes events with its owner's rights. `events` is an array of objects with subject, subject_id,
-- action and data; numbers, times and digests are made here. If two transactions write to one
-- subject at once, the second waits for the first and takes the next number.
CREATE OR REPLACE FUNCTION public.billing_note_events(events jsonb, actor_id bigint, channel text, request_id text DEFAULT NULL::text)
 RETURNS SETOF public.billing_event
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    asked record;
    last_one billing_event;
    written billing_event;
BEGIN
    FOR asked IN
        SELECT each->>'subject' AS subject, (each->>'subject_id')::bigint AS subject_id,
            each->>'action' AS action, each->'data' AS data
        FROM jsonb_array_elements(events) WITH ORDINALITY AS list (each, place)
        -- In one order for all, so that nobody waits for somebody who waits for them.
        ORDER BY 1, 2, place
    LOOP
        LOOP
            SELECT * INTO last_one FROM billing_event e
            WHERE e.subject = asked.subject AND e.subject_id = asked.subject_id
            ORDER BY e.number DESC LIMIT 1;
            written.id := nextval('billing_event_id_seq');
            written.subject := asked.subject;
            written.subject_id := asked.subject_id;
            written.number := coalesce(last_one.number, 0) + 1;
            written.action := asked.action;
            written.actor_id := billing_note_events.actor_id;
            written.channel := billing_note_events.channel;
            written.request_id := billing_note_events.request_id;
            written.data := asked.data;
            written.created_at := greatest(billing_clock(), last_one.created_at);
            written.digest := billing_event_digest(written, coalesce(last_one.digest, ''));
            INSERT INTO billing_event SELECT (written).*
                ON CONFLICT (subject, subject_id, number) DO NOTHING;
            EXIT WHEN FOUND;  -- else somebody else has written the next one: again, after it
        END LOOP;
        RETURN NEXT written;
    END LOOP;
END
$function$;
