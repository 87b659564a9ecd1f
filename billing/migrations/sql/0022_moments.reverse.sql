DROP TRIGGER billing_note_terms ON billing_plan;
DROP TRIGGER billing_note_terms_of_new_plan ON billing_plan;
DROP TRIGGER billing_note_activation ON users_user;
DROP FUNCTION billing_note_terms();
DROP FUNCTION billing_note_activation();
