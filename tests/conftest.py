"""Shared by all tests: no network, and helper modules beside this file (``oracle``) can be imported."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parent))
