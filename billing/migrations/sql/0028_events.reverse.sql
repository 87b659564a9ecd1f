DROP FUNCTION billing_note_events(jsonb, bigint, text, text);
DROP FUNCTION billing_check_event() CASCADE;
DROP FUNCTION billing_refuse_rewriting_events() CASCADE;
DROP FUNCTION billing_event_digest(billing_event, bytea);
