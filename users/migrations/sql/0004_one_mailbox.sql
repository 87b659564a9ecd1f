-- One mailbox has one user, however its address is spelled. Rows that shared a mailbox before this
-- rule stay as they are: `email_twin` tells them apart, from 0 for the oldest. No other row ever
-- gets a number, so whoever comes later, or takes such an address, is refused.
WITH numbered AS (
    SELECT id, row_number() OVER (PARTITION BY email_identity ORDER BY id) - 1 AS twin
    FROM users_user
)
UPDATE users_user u SET email_twin = numbered.twin
FROM numbered WHERE numbered.id = u.id AND numbered.twin > 0;

CREATE FUNCTION public.users_one_mailbox() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    identity text;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.email = OLD.email THEN
        NEW.email_twin := OLD.email_twin;
        RETURN NEW;
    END IF;
    IF NEW.email ~ '[\u0001-\u001F\u007F-\u009F\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890-\u0891\u08E2\u115F-\u1160\u17B4-\u17B5\u180B-\u180F\u200B-\u200F\u2028-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB\U000110BD\U000110CD\U00013430-\U0001343F\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]' THEN
        RAISE EXCEPTION 'an e-mail address has characters that cannot be seen'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'user_email_has_nothing_unseen',
                TABLE = 'users_user', SCHEMA = 'public';
    END IF;
    identity := users_email_identity(NEW.email);
    IF TG_OP = 'UPDATE' AND identity = users_email_identity(OLD.email) THEN
        NEW.email_twin := OLD.email_twin;
        RETURN NEW;
    END IF;
    NEW.email_twin := 0;
    -- The unique constraint refuses a second 0. It does not see twins of old that are left alone.
    IF EXISTS (
        SELECT FROM users_user u
        WHERE u.email_identity = identity AND u.email_twin > 0 AND u.id <> NEW.id
    ) THEN
        RAISE EXCEPTION 'another user has this mailbox'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'user_email_is_one_mailbox',
                TABLE = 'users_user', SCHEMA = 'public';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER users_one_mailbox BEFORE INSERT OR UPDATE OF email, email_twin ON users_user
    FOR EACH ROW EXECUTE FUNCTION users_one_mailbox();
