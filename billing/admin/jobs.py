"""Takes the job queue's own pages out of the panel: they are made for Django's plain look, and let
jobs be cancelled that an operator has no say in. Runs have a page; jobs that fail are in the log.
"""

from django.contrib import admin
from procrastinate.contrib.django.models import ProcrastinateJob

admin.site.unregister(ProcrastinateJob)
