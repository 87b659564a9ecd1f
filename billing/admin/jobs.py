"""Removes procrastinate's pages from the panel.

They do not fit its look, and allow cancelling jobs that operators are not responsible for. Runs
have a page; failed jobs are in the log.
"""

from django.contrib import admin
from procrastinate.contrib.django.models import ProcrastinateJob

admin.site.unregister(ProcrastinateJob)
