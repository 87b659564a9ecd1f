"""Gunicorn's default configuration file, which it reads from the directory that it starts in.

It hands on everything in config/serving.py, so that `gunicorn config.wsgi` needs no `--config`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from config import serving

globals().update({name: value for name, value in vars(serving).items() if name[0] != "_"})
