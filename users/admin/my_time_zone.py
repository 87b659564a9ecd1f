"""The page where operators choose the time zone in which they read dates."""

from typing import Any

from django.contrib import messages
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse_lazy
from django.views.generic import UpdateView
from unfold.views import UnfoldSiteViewMixin

from users.forms import TimeZoneForm
from users.models import User


class MyTimeZoneView(UnfoldSiteViewMixin, UpdateView):  # type: ignore[type-arg]
    """Changes the time zone of the operator who asks, so it needs no further permission."""

    title = "My time zone"
    permission_required = ()
    form_class = TimeZoneForm
    template_name = "users/my_time_zone.html"
    success_url = reverse_lazy("admin:my_time_zone")

    def get_object(self, queryset: Any = None) -> Any:
        # Not request.user: a name that the form refuses must not be used to show this page.
        return User.objects.get(pk=self.request.user.pk or 0)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        # Without `object`: Unfold would put the operator into the headline as a customer.
        context: dict[str, Any] = super().get_context_data(**kwargs) | {"content_title": self.title}
        context.pop("object", None)
        return context

    def form_valid(self, form: Any) -> HttpResponse:
        # Only the field of the form: others may be editing the rest of the row.
        form.instance.save(update_fields=["time_zone"])
        messages.success(self.request, "Your time zone was saved.")
        return HttpResponseRedirect(str(self.success_url))
