DROP TRIGGER billing_end_sessions ON users_user;
DROP FUNCTION billing_end_sessions();
