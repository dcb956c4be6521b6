"""Images with a class for each pixel, in the layouts of public data sets, as masks of Cityscapes ids.

Cityscapes: ``leftImg8bit/SPLIT/CITY/*_leftImg8bit.png`` with ``gtFine/SPLIT/CITY/*_gtFine_labelIds.png``. COCO:
``SPLIT2017/*.jpg`` with ``annotations/panoptic_SPLIT2017.json`` and its folder of masks, or with the grey masks that
``vpr datasets panoptic-to-cs34`` makes of them in ``annotations/cs34_SPLIT2017``. KITTI: ``training/image_2/*.png``
with ``training/semantic/*.png``, split by ``train.txt`` and ``val.txt`` where there are any. Folders: ``images`` with
``labels`` beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vpr.categories import CS34, IGNORED
from vpr.core import ConfigError, DataError, Image
from vpr.datasets.folders import list_images
from vpr.datasets.panoptic import Panoptic, read_panoptic
from vpr.datasets.splits import read_split
from vpr.images import read_image

_EVERY = 5  # without lists of the splits, every fifth image of KITTI is for validation


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Images of one split and where their labels are."""

    root: Path  # folder of the images
    names: tuple[str, ...]  # of the images, below it
    labels: tuple[Path, ...]  # of the mask of each
    panoptic: Panoptic | None = None  # what the masks' ids mean; None where they are Cityscapes ids

    def __post_init__(self) -> None:
        if not self.names:
            raise DataError(f"{self.root}: no labelled images are there")
        absent = [path for path in self.labels if not path.is_file()]
        if absent:
            raise DataError(f"{absent[0]}: no such file; {len(absent)} of {len(self.labels)} images have no labels")

    def __len__(self) -> int:
        return len(self.names)

    def image(self, row: int) -> Path:
        return self.root / self.names[row]

    def mask(self, row: int) -> Image:
        """(H, W) uint8 Cityscapes ids, IGNORED where nothing is known. Raises ImageError or DataError."""
        path = self.labels[row]
        return read_cs34(path) if self.panoptic is None else self.panoptic.mask(path)


def read_cs34(path: Path) -> Image:
    """(H, W) uint8 Cityscapes ids of a grey mask; raises DataError for an image of anything else."""
    mask = read_image(path, "grey")
    wrong = (mask >= len(CS34)) & (mask != IGNORED)
    if wrong.any():
        raise DataError(
            f"{path}: holds the value {int(mask[wrong][0])}; a mask has Cityscapes ids from 0 to {len(CS34) - 1}, or "
            f"{IGNORED} for no class"
        )
    return mask


def read_cityscapes(root: Path, split: str) -> LabelledImages:
    """Cityscapes' fine annotations."""
    images, suffix = _folder(root / "leftImg8bit" / split, "Cityscapes"), "_leftImg8bit"
    names = [name for name in list_images(images) if Path(name).stem.endswith(suffix)]
    masks = [f"{name.rpartition(suffix)[0]}_gtFine_labelIds.png" for name in names]
    return LabelledImages(images, tuple(names), tuple(root / "gtFine" / split / mask for mask in masks))


def read_coco(root: Path, split: str, *, use_cs34_masks: bool = False) -> LabelledImages:
    """COCO with panoptic masks, or with the grey masks made of them."""
    images, annotations = _folder(root / f"{split}2017", "COCO"), root / "annotations"
    if use_cs34_masks:
        folder = _folder(annotations / f"cs34_{split}2017", "COCO as Cityscapes ids")
        stems = {path.stem for path in folder.glob("*.png")}
        names = [name for name in list_images(images) if Path(name).stem in stems]
        return LabelledImages(images, tuple(names), tuple(folder / f"{Path(name).stem}.png" for name in names))
    panoptic = read_panoptic(annotations / f"panoptic_{split}2017.json")
    folder = _folder(annotations / f"panoptic_{split}2017", "COCO's panoptic masks")
    return LabelledImages(images, panoptic.images, tuple(folder / name for name in panoptic.segments), panoptic)


def read_kitti(root: Path, split: str) -> LabelledImages:
    """KITTI's semantic benchmark, or any of its images with masks of that kind."""
    folder = _folder(root / "training" / "image_2", "KITTI")
    stems = sorted(Path(name).stem for name in list_images(folder))
    names = [f"training/image_2/{stem}.png" for stem in stems]
    if (root / f"{split}.txt").is_file():
        chosen = [stems[row] for row in read_split(root / f"{split}.txt", names)]
    else:
        chosen = [stem for row, stem in enumerate(stems) if (row % _EVERY == _EVERY - 1) == (split == "val")]
    labels = root / "training" / "semantic"
    return LabelledImages(
        folder, tuple(f"{stem}.png" for stem in chosen), tuple(labels / f"{stem}.png" for stem in chosen)
    )


def read_folders(root: Path, split: str) -> LabelledImages:
    """Images in ``images`` and masks of the same names in ``labels``; of both, those in a subfolder of the split."""
    inner = Path(split) if (root / "images" / split).is_dir() else Path()
    images = _folder(root / "images" / inner, "folders")
    names = list_images(images)
    return LabelledImages(
        images, tuple(names), tuple((root / "labels" / inner / name).with_suffix(".png") for name in names)
    )


LABELLED: dict[str, Callable[[Path, str], LabelledImages]] = {
    "cityscapes": read_cityscapes,
    "coco": read_coco,
    "coco-cs34": lambda root, split: read_coco(root, split, use_cs34_masks=True),
    "folders": read_folders,
    "kitti": read_kitti,
}


def read_labelled(layout: str, root: Path, split: str) -> LabelledImages:
    """The images of a split, "train" or "val". Raises ConfigError for an unknown layout and DataError for a bad set."""
    if layout not in LABELLED:
        raise ConfigError(f"unknown layout {layout!r} of labelled images; known: {', '.join(LABELLED)}")
    return LABELLED[layout](root, split)


def _folder(path: Path, what: str) -> Path:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder, where the layout {what!r} has one")
    return path
