"""One view for all addresses below `/v2/panel/`; `dispatch` knows the calls."""

from django.urls import re_path

from billing.api.panel.dispatch import answer

urlpatterns = [re_path(r"(?P<path>(?s:.*))\Z", answer, name="panel_api")]
