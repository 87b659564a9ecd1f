"""The addresses of the installation. The admin classes add those of the panel's own pages."""

from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView

from billing.api.pages import problems_page
from billing.api.rest import api, no_such_address

handler500 = "config.outages.server_error"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("api/v1/problems", problems_page, name="api-problems"),
    path("api/v1/", api.urls),
    re_path("^api/", no_such_address),
    path("v2/panel/", include("billing.api.panel.urls")),
]
