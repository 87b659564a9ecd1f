-- What operators and programs did before events were kept, as it was worded then. The entries stay
-- where they are, too: nothing reads them any more.
DO $$
DECLARE
    entry record;
    written billing_event;
    previous billing_event;
BEGIN
    FOR entry IN
        SELECT l.id, l.action_time, l.user_id, l.action_flag, l.change_message, l.object_repr,
            l.object_id::bigint AS subject_id,
            CASE WHEN c.model = 'user' AND u.is_staff THEN 'operator' ELSE c.model END AS subject
        FROM django_admin_log l JOIN django_content_type c ON c.id = l.content_type_id
        LEFT JOIN users_user u ON c.model IN ('user', 'operator') AND l.object_id = u.id::text
        WHERE l.object_id ~ '^[0-9]{1,18}$' AND (c.app_label, c.model) IN (
            ('users', 'user'), ('users', 'operator'), ('auth', 'group'), ('billing', 'plan'),
            ('billing', 'service'), ('billing', 'userdefaults'), ('billing', 'lowbalancethreshold'),
            ('billing', 'standarddescription'), ('billing', 'apikey'), ('billing', 'webhookendpoint')
        )
        ORDER BY subject, subject_id, l.action_time, l.id
    LOOP
        IF previous.subject IS DISTINCT FROM entry.subject
            OR previous.subject_id IS DISTINCT FROM entry.subject_id
        THEN
            previous := NULL;
        END IF;
        written := NULL;
        written.id := nextval('billing_event_id_seq');
        written.subject := entry.subject;
        written.subject_id := entry.subject_id;
        written.number := coalesce(previous.number, 0) + 1;
        written.action := 'noted';
        written.actor_id := entry.user_id;
        written.channel := CASE WHEN entry.change_message ~ '(B|b)y the (Panel )?API'
            THEN 'api' WHEN entry.change_message ~ 'by manage.py' THEN 'command' ELSE 'panel' END;
        written.data := jsonb_build_object(
            'message', entry.change_message, 'flag', entry.action_flag, 'name', entry.object_repr);
        written.created_at := least(greatest(entry.action_time, previous.created_at), clock_timestamp());
        written.digest := billing_event_digest(written, coalesce(previous.digest, ''));
        INSERT INTO billing_event SELECT (written).*;
        previous := written;
    END LOOP;
END
$$;
