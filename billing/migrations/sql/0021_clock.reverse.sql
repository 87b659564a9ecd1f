DROP FUNCTION billing_refuse_rewriting_moments();
DROP FUNCTION billing_clock();
