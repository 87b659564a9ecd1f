DROP TRIGGER billing_open_balance ON users_user;
DROP FUNCTION billing_open_balance, billing_check_transaction, billing_check_balance,
    billing_refuse_balance_removal, billing_refuse_rewriting_history, billing_number_at,
    billing_post, billing_type_allows, billing_amount_problem, billing_digest;
ALTER TABLE billing_balance RESET (fillfactor);
