-- Queues a job that sends the waiting events of an endpoint, unless a job is waiting already or the
-- endpoint is paused.
--
-- Nothing here waits for another transaction or fails. If another transaction is queueing the same
-- job, this one leaves it to that one; if that job ends before this transaction does, the sweep
-- every few seconds finds the events (billing/tasks.py).
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
