-- The clock by which moments are kept, other than those of transactions. Tests put it to another
-- time by replacing this function.
CREATE FUNCTION billing_clock() RETURNS timestamptz
LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT clock_timestamp()';

-- Guard of billing_activation and billing_planterms: UPDATE, DELETE and TRUNCATE.
CREATE FUNCTION billing_refuse_rewriting_moments() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'When something was so is append-only: % of % is refused.',
        TG_OP, TG_TABLE_NAME USING ERRCODE = 'BL002';
END
$$;

REVOKE ALL ON FUNCTION billing_clock(), billing_refuse_rewriting_moments() FROM PUBLIC;
