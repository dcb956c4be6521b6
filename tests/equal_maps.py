"""Whether two maps are the same, byte for byte."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any


def content_of(folder: Path) -> dict[str, Any]:
    """The bytes of all files of a map, and the rows of its manifest, which SQLite may lay out in several ways."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("manifest."))
    content: dict[str, Any] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    with sqlite3.connect(folder / "manifest.sqlite") as database:
        for table in ("facts", "segments", "images", "positions"):
            content[table] = sorted(database.execute(f"SELECT * FROM {table}"))
    database.close()
    return content
