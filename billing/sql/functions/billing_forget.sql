-- Erases what events and the log before events say about a user who is closed and marked as
-- forgotten, and records it as an event. It runs with its owner's rights; what it erases is decided
-- by billing_erased alone. The digests of the erased events stay: the event that is recorded lists
-- them, each with its number, its digest, and the SHA-256 of what is left of its data.
CREATE OR REPLACE FUNCTION public.billing_forget(of_user_id bigint, acting_user_id bigint, via_channel text, request_id text DEFAULT NULL::text)
 RETURNS SETOF public.billing_event
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    UPDATE billing_event e SET data = billing_erased(e.action, e.data)
    WHERE e.subject = 'user' AND e.subject_id = of_user_id
        AND e.data <> billing_erased(e.action, e.data);
    UPDATE django_admin_log l SET object_repr = '', change_message = ''
    FROM django_content_type c
    WHERE c.id = l.content_type_id AND c.app_label = 'users' AND c.model IN ('user', 'operator')
        AND l.object_id = of_user_id::text
        AND EXISTS (SELECT FROM users_user u WHERE u.id = of_user_id AND u.forgotten_at IS NOT NULL);
    RETURN QUERY SELECT * FROM billing_note_events(
        jsonb_build_array(jsonb_build_object(
            'subject', 'user', 'subject_id', of_user_id, 'action', 'forgotten',
            'data', jsonb_build_object(
                'events', billing_erased_events(of_user_id, 9223372036854775807)))),
        acting_user_id, via_channel, request_id);
END
$function$;
