DO $$
BEGIN
    IF EXISTS (SELECT FROM billing_transaction WHERE form > 1 OR type = 'bonus_expiry'
            OR channel = 'system') THEN
        RAISE EXCEPTION 'There are transactions that an earlier version cannot verify.';
    END IF;
END
$$;
DROP TRIGGER grant_uses_move_their_grant ON billing_grantuse;
DROP TRIGGER grants_match_the_transactions ON billing_grant;
DROP TRIGGER grant_uses_are_append_only ON billing_grantuse;
DROP TRIGGER grants_are_never_removed ON billing_grant;
