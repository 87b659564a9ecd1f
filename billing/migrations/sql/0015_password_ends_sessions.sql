-- A new password ends the sessions of `/v2/panel/`, as it does those of the panel: whoever knew the
-- old one is out, however the password was set.
CREATE FUNCTION billing_end_sessions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    DELETE FROM billing_apisession WHERE operator_id = NEW.id;
    RETURN NULL;
END
$$;

CREATE TRIGGER billing_end_sessions AFTER UPDATE OF password ON users_user
    FOR EACH ROW WHEN (OLD.password IS DISTINCT FROM NEW.password)
    EXECUTE FUNCTION billing_end_sessions();
