"""Published scores for reference columns: none measured by this project, always marked as published.

They are passed to the tables as an argument. The fields of a row are documented in `proxyclip.reports.frames`.
"""

import json
from pathlib import Path

PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
