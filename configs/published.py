"""Published scores for the tables' reference columns: none measured here, always marked as published.

The engine's tables take them as an argument. The fields of a row are those of `proxyclip.reports.published`.
"""

import json
from pathlib import Path

PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
