-- Queues a job that resumes the subscriptions of a user after a refill or an activation.
--
-- The database transaction that refills or activates also queues the job, so the job exists exactly
-- if its reason does. One waiting job per user is enough, which its queueing lock ensures: a
-- waiting job sees every refill committed before it starts. A job that starts before this
-- transaction commits locks the balance first, so it waits for the commit. A refill that finds a
-- started job queues another. A job that started just before an activation was committed still sees
-- the user deactivated; the next charging run resumes then.
--
-- A refill neither fails nor waits if no job can be queued: the next charging run resumes anyway.
-- (Two refills of one user follow each other by the lock on the balance, so they never wait for
-- each other here.)
CREATE OR REPLACE FUNCTION public.billing_queue_resumption(of_user_id bigint)
 RETURNS void
 LANGUAGE plpgsql
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '250ms'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    IF EXISTS (
        SELECT FROM billing_subscription s
        WHERE s.user_id = of_user_id AND s.status = 'suspended' AND s.due_on IS NOT NULL
    ) THEN
        BEGIN
            PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
                'refills', 'billing.tasks.resume', 10, NULL, 'resume:' || of_user_id,
                jsonb_build_object('user_id', of_user_id), NULL
            )::procrastinate_job_to_defer_v1]);
        EXCEPTION
            WHEN unique_violation THEN
                NULL;  -- one waits already
            WHEN OTHERS THEN
                RAISE WARNING 'No job to resume the subscriptions of user %: %',
                    of_user_id, SQLERRM;
        END;
    END IF;
END
$function$;
