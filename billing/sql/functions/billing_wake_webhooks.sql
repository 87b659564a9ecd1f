-- Queues a job that sends what waits for an endpoint, unless one waits already or it is paused.
--
-- Nobody waits for anybody here, and nothing is refused for want of a job. Who finds another
-- transaction queueing that very job leaves it to that one; what is missed this way, because that
-- job was done before this transaction ended, a sweep every few seconds finds (billing/tasks.py).
CREATE OR REPLACE FUNCTION public.billing_wake_webhooks(for_endpoint_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '250ms'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
DECLARE
    lock_name CONSTANT text := 'webhooks:' || for_endpoint_id;
BEGIN
    IF EXISTS (
        SELECT FROM procrastinate_jobs j WHERE j.queueing_lock = lock_name AND j.status = 'todo'
    ) OR NOT EXISTS (
        SELECT FROM billing_webhookendpoint e
        WHERE e.id = for_endpoint_id AND e.is_active
            AND (e.paused_until IS NULL OR e.paused_until <= clock_timestamp())
    ) OR NOT pg_try_advisory_xact_lock(hashtextextended(lock_name, 0)) THEN
        RETURN;
    END IF;
    PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
        'webhooks', 'billing.tasks.send_webhooks', 0, lock_name, lock_name,
        jsonb_build_object('endpoint_id', for_endpoint_id), NULL
    )::procrastinate_job_to_defer_v1]);
EXCEPTION
    WHEN unique_violation THEN
        NULL;  -- one waits already
    WHEN OTHERS THEN
        RAISE WARNING 'No job to send webhooks to endpoint %: %', for_endpoint_id, SQLERRM;
END
$function$;
