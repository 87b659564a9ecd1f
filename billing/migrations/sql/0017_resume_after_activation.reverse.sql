DROP TRIGGER billing_resume_after_activation ON users_user;
DROP FUNCTION billing_resume_after_activation();

-- As before.
CREATE OR REPLACE FUNCTION billing_resume_after_refill() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off SET lock_timeout = '250ms'
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

DROP FUNCTION billing_queue_resumption(bigint);
