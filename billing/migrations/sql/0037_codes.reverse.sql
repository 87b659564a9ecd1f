UPDATE auth_permission p SET
    codename = replace(p.codename, '_reason', '_standarddescription'),
    name = replace(p.name, 'reason', 'standard description')
FROM django_content_type t
WHERE t.id = p.content_type_id AND t.app_label = 'billing' AND p.codename LIKE '%\_reason';
UPDATE billing_groupdefault
SET permission = replace(permission, '_reason', '_standarddescription')
WHERE permission LIKE 'billing.%\_reason';
