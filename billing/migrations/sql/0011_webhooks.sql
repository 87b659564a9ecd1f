-- What other programs are told of is noted by the database transaction in which it happens: an event
-- is there if and only if what it tells of is, whatever program posted it.
--
-- Of one user, events get their IDs in the order in which things happened: who posts, and who
-- suspends or resumes, holds the user's balance until the end of the database transaction.

-- Queues a job that sends what waits for an endpoint, unless one waits already or it is paused.
--
-- Nobody waits for anybody here, and nothing is refused for want of a job. Who finds another
-- transaction queueing that very job leaves it to that one; what is missed this way, because that
-- job was done before this transaction ended, a sweep every few seconds finds (billing/tasks.py).
CREATE FUNCTION billing_wake_webhooks(for_endpoint_id bigint) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET lock_timeout = '250ms'
SET search_path = pg_catalog, public, pg_temp AS $$
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
$$;

-- After transactions were posted: that they were, and whose balance fell below its threshold.
--
-- The first question is all that posting costs where nobody wants to know.
CREATE FUNCTION billing_tell_of_transactions() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    wanted text[];
    default_threshold numeric;
BEGIN
    IF NOT EXISTS (
        SELECT FROM billing_webhookendpoint e
        WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low']::varchar[]
    ) THEN
        RETURN NULL;
    END IF;
    wanted := ARRAY(SELECT unnest(e.events) FROM billing_webhookendpoint e WHERE e.is_active);
    SELECT amount INTO default_threshold FROM billing_lowbalancethreshold WHERE user_id IS NULL;
    WITH happened AS (
        SELECT p.user_id, p.number, 1 AS place, 'transaction.posted' AS type, '{}'::jsonb AS data
        FROM posted p
        WHERE 'transaction.posted' = ANY (wanted)
        UNION ALL
        SELECT p.user_id, p.number, 2, 'balance.low', jsonb_build_object(
            'threshold', limited.threshold::text, 'balance', p.new_balance::text
        )
        FROM posted p
        LEFT JOIN billing_lowbalancethreshold own ON own.user_id = p.user_id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN own.id IS NULL THEN default_threshold ELSE own.amount END
        ) limited (threshold)
        WHERE 'balance.low' = ANY (wanted)
            AND p.old_balance >= limited.threshold AND p.new_balance < limited.threshold
    ), noted AS (
        INSERT INTO billing_webhookevent (type, user_id, number, data, created_at)
        SELECT type, user_id, number, data, clock_timestamp() FROM happened
        ORDER BY user_id, number, place
        RETURNING id, type, user_id
    )
    INSERT INTO billing_webhookdelivery (event_id, endpoint_id, user_id, status)
    SELECT n.id, e.id, n.user_id, 'pending'
    FROM noted n JOIN billing_webhookendpoint e ON e.is_active AND n.type = ANY (e.events)
    ORDER BY n.id, e.id;
    PERFORM billing_wake_webhooks(e.id) FROM billing_webhookendpoint e
    WHERE e.is_active AND e.events && ARRAY['transaction.posted', 'balance.low']::varchar[];
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_tell_of_transactions AFTER INSERT ON billing_transaction
    REFERENCING NEW TABLE AS posted
    FOR EACH STATEMENT EXECUTE FUNCTION billing_tell_of_transactions();

-- After a subscription was suspended, or resumed. What is told is what it was like then, in the form
-- of billing/wire.py.
CREATE FUNCTION billing_tell_of_subscription() RETURNS trigger
LANGUAGE plpgsql SET enable_seqscan = off
SET search_path = pg_catalog, public, pg_temp AS $$
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
$$;

CREATE TRIGGER billing_tell_of_subscription AFTER UPDATE ON billing_subscription
    FOR EACH ROW WHEN (OLD.status <> NEW.status AND NEW.status <> 'cancelled')
    EXECUTE FUNCTION billing_tell_of_subscription();

-- What was spent of a minute's requests is worth no more than that minute.
ALTER TABLE billing_apiallowance SET UNLOGGED;
ALTER TABLE billing_apiallowance SET (fillfactor = 50);
