"""What `gunicorn config.wsgi` takes beside its command line, from the directory it starts in."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from config import serving

globals().update({name: value for name, value in vars(serving).items() if name[0] != "_"})
