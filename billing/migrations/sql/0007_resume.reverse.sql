DROP TRIGGER billing_resume_after_refill ON billing_balance;
DROP FUNCTION billing_resume_after_refill();
-- Jobs of these tasks have nobody to do them any more.
DELETE FROM procrastinate_jobs WHERE task_name LIKE 'billing.%';
