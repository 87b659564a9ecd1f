-- Returns the events of a user, before one with a certain number, whose data is not that of their
-- digest: an array of objects with the number, the digest, and the SHA-256 of the present data.
CREATE OR REPLACE FUNCTION public.billing_erased_events(of_user_id bigint, before_number bigint)
 RETURNS jsonb
 LANGUAGE sql
 STABLE
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
        'number', e.number, 'digest', encode(e.digest, 'hex'),
        'sha256', encode(sha256(convert_to(e.data::text, 'UTF8')), 'hex')
    ) ORDER BY e.number), '[]')
    FROM billing_event e LEFT JOIN billing_event previous ON previous.subject = e.subject
        AND previous.subject_id = e.subject_id AND previous.number = e.number - 1
    WHERE e.subject = 'user' AND e.subject_id = of_user_id AND e.number < before_number
        AND e.digest <> billing_event_digest(e, coalesce(previous.digest, ''))
$function$;
