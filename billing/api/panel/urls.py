"""One view for every address below `/v2/panel/`: which calls there are, `dispatch` knows."""

from django.urls import re_path

from billing.api.panel.dispatch import answer

urlpatterns = [re_path(r"(?P<path>(?s:.*))\Z", answer, name="panel_api")]
