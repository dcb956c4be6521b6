"""Files of classes: a json list of ``{"id", "name", "color", "cs34_ids"}``, in the order of the ids.

``isthing`` and ``supercategory`` are written for readers of COCO's panoptic categories; only the four above are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vpr.categories import THINGS, Categories, Category
from vpr.core import DataError
from vpr.runtime.files import write_json


def as_records(categories: Categories) -> list[dict[str, Any]]:
    """The content of a file of these classes."""
    return [
        {
            "id": number,
            "name": each.name,
            "supercategory": categories.name,
            "isthing": int(bool(each.cs34) and set(each.cs34) <= THINGS),
            "color": list(each.colour),
            "cs34_ids": list(each.cs34),
        }
        for number, each in enumerate(categories.classes)
    ]


def from_records(records: Any, where: str, name: str = "classes") -> Categories:
    """Classes of a file's content; without ``cs34_ids`` a class is the Cityscapes label of its id. Raises DataError."""
    if not isinstance(records, Sequence) or isinstance(records, str) or not records:
        raise DataError(f"{where}: expected a list of classes, got {type(records).__name__}")
    try:
        classes = [_category(each) for each in records]
        numbers = [int(each["id"]) for each in records]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{where}: each class needs id, name and three values of color ({type(error).__name__}: {error})"
        ) from None
    if numbers != list(range(len(numbers))):
        raise DataError(f"{where}: the ids must be 0, 1, 2, ... in this order, not {numbers[:10]}")
    return Categories(name, tuple(classes))


def read_categories(path: Path) -> Categories:
    """A file of classes. Raises DataError for anything else, and ConfigError for classes that overlap."""
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; `vpr datasets cs34-categories` writes one") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not json ({error})") from None
    return from_records(records, str(path), path.stem)


def write_categories(path: Path, categories: Categories) -> None:
    write_json(path, as_records(categories))


def _category(record: Mapping[str, Any]) -> Category:
    red, green, blue = (int(value) for value in record["color"])
    if not all(0 <= value <= 255 for value in (red, green, blue)):
        raise ValueError(f"color {record['color']} is no RGB")
    ids = record.get("cs34_ids", [record["id"]])
    return Category(str(record["name"]), (red, green, blue), tuple(int(number) for number in ids))
