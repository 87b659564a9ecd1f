-- A user who is activated resumes soon, like one who refills: see 0007_resume.sql, whose rules for
-- the job hold here too. A job that started just before the activation was committed still sees the
-- user deactivated; the next charging run resumes then.
CREATE FUNCTION billing_queue_resumption(of_user_id bigint) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET lock_timeout = '250ms'
SET search_path = pg_catalog, public, pg_temp AS $$
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
$$;

CREATE OR REPLACE FUNCTION billing_resume_after_refill() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM billing_queue_resumption(NEW.user_id);
    RETURN NULL;
END
$$;

CREATE FUNCTION billing_resume_after_activation() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    PERFORM billing_queue_resumption(NEW.id);
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_resume_after_activation AFTER UPDATE OF is_active ON users_user
    FOR EACH ROW WHEN (NEW.is_active AND NOT OLD.is_active)
    EXECUTE FUNCTION billing_resume_after_activation();
