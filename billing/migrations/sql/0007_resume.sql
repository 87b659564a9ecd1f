-- After a refill, whatever brought it, a job resumes what the user's empty balance had suspended.
--
-- The job is queued by the very database transaction that refills: it is there if and only if the
-- money is. One waiting job per user is enough, which its queueing lock sees to: a job that waits
-- still sees every refill committed before it starts, and one that was started meanwhile first
-- locks the balance, so it waits for the commit of a refill that found it waiting. A refill that
-- finds it started queues another.
--
-- A refill neither fails nor waits for want of a job: the next charging run resumes anyway. (Two
-- refills of one user follow each other by the lock on the balance, so they never wait for each
-- other here.)
CREATE FUNCTION billing_resume_after_refill() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT FROM billing_subscription s
        WHERE s.user_id = NEW.user_id AND s.status = 'suspended' AND s.due_on IS NOT NULL
    ) THEN
        BEGIN
            PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
                'refills', 'billing.tasks.resume', 10, NULL, 'resume:' || NEW.user_id,
                jsonb_build_object('user_id', NEW.user_id), NULL
            )::procrastinate_job_to_defer_v1]);
        EXCEPTION
            WHEN unique_violation THEN
                NULL;  -- one waits already
            WHEN OTHERS THEN
                RAISE WARNING 'No job to resume the subscriptions of user %: %',
                    NEW.user_id, SQLERRM;
        END;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_resume_after_refill AFTER UPDATE ON billing_balance
    FOR EACH ROW WHEN (NEW.real > OLD.real) EXECUTE FUNCTION billing_resume_after_refill();
