"""``vpr evaluate segmentation``: mean IoU of a head, or of predicted masks, on labelled images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vpr.core import ConfigError


def evaluate_segmentation(
    root: Path,
    out: Path,
    layout: str,
    split: str,
    *,
    head: str | None,
    predictions: Path | None,
    category_file: Path | None,
    pictures: int,
    overrides: Sequence[str] | None,
) -> str:
    """The table of measures. Raises ConfigError for options that do not fit together."""
    from vpr.categories import STREET
    from vpr.category_files import read_categories
    from vpr.datasets.labelled import read_labelled
    from vpr.local_features.segmentation import load_segmenter
    from vpr.runtime.device import device_of
    from vpr.segmentation_benchmark import by_files, by_head
    from vpr.segmentation_benchmark import evaluate_segmentation as measure

    if (head is None) == (predictions is None):
        raise ConfigError("vpr evaluate segmentation measures either --head WEIGHTS or --predictions FOLDER")
    if overrides:
        raise ConfigError("--set has no meaning for segmentation; a head has its settings in its weights")
    if head is not None:
        if category_file is not None:
            raise ConfigError("--category-file is for --predictions; a head has its classes in its weights")
        segmenter = load_segmenter(head, device_of("auto"))
        images = read_labelled(layout, root, split)
        return measure(images, by_head(images, segmenter), segmenter.categories, out, pictures=pictures).table()
    assert predictions is not None
    categories = STREET if category_file is None else read_categories(category_file)
    images = read_labelled(layout, root, split)
    return measure(images, by_files(images, predictions, categories), categories, out, pictures=pictures).table()
