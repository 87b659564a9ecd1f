DROP TRIGGER billing_count_users ON users_user;
DROP FUNCTION billing_count_users();
