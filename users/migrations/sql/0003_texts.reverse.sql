DROP FUNCTION public.users_search_text(text, text, text[]);
DROP FUNCTION public.users_email_identity(text);
DROP FUNCTION public.users_from_punycode(text);
DROP FUNCTION public.users_trigrams(text);
DROP FUNCTION public.users_fold(text);
DROP FUNCTION public.users_lower(text);
