DROP TRIGGER billing_tell_of_subscription ON billing_subscription;
DROP TRIGGER billing_tell_of_transactions ON billing_transaction;
DROP FUNCTION billing_tell_of_subscription();
DROP FUNCTION billing_tell_of_transactions();
DROP FUNCTION billing_wake_webhooks(bigint);
-- Jobs of this task have nobody to do them any more.
DELETE FROM procrastinate_jobs WHERE task_name = 'billing.tasks.send_webhooks';
