"""Loads templates without their indentation, which would be a third of each page.

Space in HTML that includes a line break becomes one line break. Templates for people, such as texts
of e-mails, are loaded as they are.
"""

import re
from typing import Final

from django.conf import settings
from django.template import Origin
from django.template.loaders import app_directories, filesystem

BREAK: Final = re.compile(r"[ \t]*\n\s*")


class Compact(filesystem.Loader):
    def get_contents(self, origin: Origin) -> str:
        source: str = super().get_contents(origin)
        if settings.DEBUG or not origin.name.endswith(".html"):
            return source  # Django's page of an error shows lines as they are in the file
        return BREAK.sub("\n", source)


class FileSystem(Compact):
    """Templates in DIRS."""


class AppDirectories(Compact, app_directories.Loader):
    """Templates of applications."""
