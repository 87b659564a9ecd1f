-- A standard description becomes a reason: its text is the label and the template, and the code is
-- made from it. Equal codes and labels get the row's ID.
UPDATE billing_reason r SET code = made.code, label = made.label
FROM (
    SELECT id,
        CASE WHEN count(*) OVER (PARTITION BY code) > 1 THEN left(code, 20) || '_' || id
            ELSE code END AS code,
        CASE WHEN count(*) OVER (PARTITION BY label) > 1 THEN left(label, 80) || ' ' || id
            ELSE label END AS label
    FROM (
        SELECT id, left(template, 100) AS label, coalesce(substring(
            btrim(left(regexp_replace(lower(template), '[^a-z0-9]+', '_', 'g'), 32), '_')
            FROM '[a-z].*'
        ), 'reason_' || id) AS code
        FROM billing_reason
    ) texts
) made WHERE r.id = made.id;

-- Permissions keep their holders under their new names. After migrating back and forth there may be
-- new ones already, which then get the holders of the old ones.
WITH renamed AS (
    SELECT p.id AS old_id, other.id AS new_id
    FROM auth_permission p JOIN auth_permission other
        ON other.codename = replace(p.codename, 'standarddescription', 'reason')
    WHERE p.codename LIKE '%\_standarddescription'
), groups AS (
    INSERT INTO auth_group_permissions (group_id, permission_id)
    SELECT h.group_id, r.new_id FROM renamed r
    JOIN auth_group_permissions h ON h.permission_id = r.old_id
    ON CONFLICT DO NOTHING
)
INSERT INTO users_user_user_permissions (user_id, permission_id)
SELECT h.user_id, r.new_id FROM renamed r
JOIN users_user_user_permissions h ON h.permission_id = r.old_id
ON CONFLICT DO NOTHING;
DELETE FROM auth_group_permissions h USING auth_permission p, auth_permission other
WHERE p.id = h.permission_id AND p.codename LIKE '%\_standarddescription'
    AND other.codename = replace(p.codename, 'standarddescription', 'reason');
DELETE FROM users_user_user_permissions h USING auth_permission p, auth_permission other
WHERE p.id = h.permission_id AND p.codename LIKE '%\_standarddescription'
    AND other.codename = replace(p.codename, 'standarddescription', 'reason');
DELETE FROM auth_permission p USING auth_permission other
WHERE p.codename LIKE '%\_standarddescription'
    AND other.codename = replace(p.codename, 'standarddescription', 'reason');
UPDATE auth_permission SET
    codename = replace(codename, 'standarddescription', 'reason'),
    name = replace(name, 'standard description', 'reason')
WHERE codename LIKE '%\_standarddescription';
DELETE FROM billing_groupdefault d USING billing_groupdefault other
WHERE d.permission LIKE 'billing.%\_standarddescription' AND other."group" = d."group"
    AND other.permission = replace(d.permission, 'standarddescription', 'reason');
UPDATE billing_groupdefault SET permission = replace(permission, 'standarddescription', 'reason')
WHERE permission LIKE 'billing.%\_standarddescription';
