-- After a subscription was suspended or resumed: stores the webhook event, with the subscription as
-- it was at that moment, in the form of billing/representations.py.
CREATE OR REPLACE FUNCTION public.billing_tell_of_subscription()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    event_type CONSTANT text := CASE NEW.status
        WHEN 'active' THEN 'subscription.resumed' ELSE 'subscription.suspended' END;
    wanted_by bigint[] := ARRAY(
        SELECT e.id FROM billing_webhookendpoint e
        WHERE e.is_active AND event_type = ANY (e.events) ORDER BY e.id
    );
    noted_id bigint;
BEGIN
    IF wanted_by = '{}' THEN
        RETURN NULL;
    END IF;
    INSERT INTO billing_webhookevent (type, user_id, data, created_at)
    SELECT event_type, NEW.user_id, jsonb_build_object('subscription', jsonb_build_object(
            'id', NEW.id, 'user_id', NEW.user_id,
            'plan_id', NEW.plan_id, 'plan', p.name, 'device', NEW.device,
            'status', NEW.status, 'started_on', NEW.started_on,
            'plan_since', NEW.plan_since, 'status_since', NEW.status_since,
            'suspension_reason', nullif(NEW.suspension_reason, ''),
            'charged_from', NEW.charged_from, 'charged_through', NEW.charged_through,
            'paid', NEW.paid::text, 'charge_number', NEW.charge_number
        )), clock_timestamp()
    FROM billing_plan p WHERE p.id = NEW.plan_id
    RETURNING id INTO noted_id;
    INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status)
    SELECT noted_id, endpoint_id, NEW.user_id, 'pending' FROM unnest(wanted_by) endpoint_id;
    PERFORM billing_wake_webhooks(endpoint_id) FROM unnest(wanted_by) endpoint_id;
    RETURN NULL;
END
$function$;
