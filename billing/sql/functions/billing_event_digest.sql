-- Returns the digest of an event: SHA-256 over its canonical form (docs/ledger.md).
CREATE OR REPLACE FUNCTION public.billing_event_digest(e public.billing_event, previous_digest bytea)
 RETURNS bytea
 LANGUAGE plpgsql
 STABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN sha256(convert_to(json_build_array(
        encode(previous_digest, 'hex'),
        e.id::text, e.subject, e.subject_id::text, e.number::text, e.action,
        e.actor_id::text, e.channel, e.request_id,
        to_char(e.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        e.data::text
    )::text, 'UTF8'));
END
$function$;
