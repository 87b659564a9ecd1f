DROP TRIGGER users_one_mailbox ON users_user;
DROP FUNCTION users_one_mailbox();
