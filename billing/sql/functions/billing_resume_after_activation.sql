-- After an activation: queues the job that resumes the user (see billing_queue_resumption).
CREATE OR REPLACE FUNCTION public.billing_resume_after_activation()
 RETURNS trigger
 LANGUAGE plpgsql
 SECURITY DEFINER
 SET jit TO 'off'
 SET search_path TO 'pg_catalog', 'public', 'pg_temp'
AS $function$
BEGIN
    PERFORM billing_queue_resumption(NEW.id);
    RETURN NULL;
END
$function$;
