DROP FUNCTION billing_refuse_other_code(), billing_refuse_other_cycle();
