"""What `gunicorn config.wsgi` takes beside its command line, from the directory it starts in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from config.headers import note_repeated

pre_request = note_repeated
