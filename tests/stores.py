"""Extraction into one store, as the tests of methods and stores need it."""

from __future__ import annotations

from pathlib import Path

from vpr.core import GlobalDescriptor, ImageSet, JointDescriptor, LocalExtractor, Origin, PatchDescriptor
from vpr.features.contents import Contents, read_contents
from vpr.features.extraction import (
    Extraction,
    FeatureOutput,
    Global,
    Local,
    Patches,
    extract,
    global_pass,
    joint_pass,
    local_pass,
    patch_pass,
)
from vpr.features.store import GlobalStore, LocalStore, PatchStore


def contents_of(images: ImageSet, folder: Path) -> Contents:
    return read_contents(images, folder.parent / "contents.json")


def extract_local(
    images: ImageSet, extractor: LocalExtractor, folder: Path, origin: Origin, how: Extraction
) -> LocalStore:
    output = FeatureOutput(folder, origin, Local(extractor, how.dtype))
    extract(images, contents_of(images, folder), local_pass(extractor), [output], how=how)
    return LocalStore(folder)


def extract_global(
    images: ImageSet, descriptor: GlobalDescriptor, folder: Path, origin: Origin, how: Extraction
) -> GlobalStore:
    output = FeatureOutput(folder, origin, Global(descriptor, how.dtype))
    extract(images, contents_of(images, folder), global_pass(descriptor), [output], how=how)
    return GlobalStore(folder)


def extract_patches(
    images: ImageSet, descriptor: PatchDescriptor, folder: Path, origin: Origin, how: Extraction
) -> PatchStore:
    output = FeatureOutput(folder, origin, Patches(descriptor, how.dtype))
    extract(images, contents_of(images, folder), patch_pass(descriptor), [output], how=how)
    return PatchStore(folder)


def extract_together(
    images: ImageSet,
    extractor: LocalExtractor,
    descriptor: JointDescriptor,
    *,
    folders: tuple[Path, Path],
    origins: tuple[Origin, Origin],
    how: Extraction,
) -> None:
    kinds = Local(extractor, how.dtype), Global(descriptor, how.dtype)
    outputs = [FeatureOutput(*each) for each in zip(folders, origins, kinds, strict=True)]
    extract(images, contents_of(images, folders[0]), joint_pass(extractor, descriptor), outputs, how=how)
