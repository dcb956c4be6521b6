"""Patch-NetVLAD's .ini files as settings: performance.ini, speed.ini, storage.ini, netvlad_extract.ini, train.ini.

Hausler et al., CVPR 2021. A key that means nothing here is named in a log line; one that Patch-NetVLAD does not know is
an error.
"""

from __future__ import annotations

import configparser
import difflib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from vpr.cli.patchnetvlad_files import roots
from vpr.core import ConfigError
from vpr.runtime.files import require_file

logger = logging.getLogger(__name__)

# Published checkpoints by the beginning of their name, which is followed by the number of principal components.
WEIGHTS = {
    "mapillary_WPCA": "patch_netvlad_mapillary_",
    "pitts_WPCA": "patch_netvlad_pitts_",
    "pittsburgh_WPCA": "patch_netvlad_pitts_",  # as its download_models.py names the file
}
SCORING = {"ransac": "ransac", "spatialapproximator": "spatial"}
# Patch-NetVLAD's key to the setting of a training; "" for what is decided elsewhere here.
TRAINING = {
    "train.batchsize": "batch_size",
    "train.cachebatchsize": "cache_batch_size",
    "train.optim": "optimizer",
    "train.seed": "seed",
    "train.lr": "learning_rate",
    "train.lrstep": "rate_step",
    "train.lrgamma": "rate_factor",
    "train.weightdecay": "weight_decay",
    "train.momentum": "momentum",
    "train.patience": "patience",
    "train.evalevery": "evaluate_every",
    "train.margin": "margin",
    "train.num_clusters": "clusters",
    "train.nneg": "negatives",
    "train.imageresizew": "width",
    "train.imageresizeh": "height",
    "train.includepanos": "",
    "global_params.num_pcs": "dim",
    "global_params.pooling": "",
    "global_params.resumepath": "",
    "global_params.threads": "",
    "global_params.ngpu": "",
    "global_params.patch_sizes": "",
    "global_params.strides": "",
    "global_params.vladv2": "",
}
# Keys of a run that need no rule of their own.
RUN = {
    "feature_extract.batchsize": "store.batch_size",
    "feature_extract.imageresizew": "global_descriptor.width",
    "feature_extract.imageresizeh": "global_descriptor.height",
    "global_params.threads": "machine.threads",
    "feature_extract.cachebatchsize": "",
    "feature_match.cachebatchsize": "",
    "feature_match.batchsize": "",
    "feature_match.dataset_name": "",
    "global_params.ngpu": "",
    "global_params.vladv2": "",
}
# Keys that several of which make one setting.
COMBINED = (
    "global_params.pooling",
    "global_params.resumepath",
    "global_params.num_pcs",
    "global_params.patch_sizes",
    "global_params.strides",
    "feature_match.matcher",
    "feature_match.n_values_all",
    "feature_match.patchweights2use",
    "feature_match.pred_input_path",
    "feature_match.imageresizew",
    "feature_match.imageresizeh",
)


def is_ini(path: Path | str | None) -> bool:
    return path is not None and Path(path).suffix.lower() == ".ini"


def run_overrides(path: Path) -> list[str]:
    """Returns the settings of an .ini file of a run, as ``section.key=value``. Raises ConfigError."""
    values = _read(path)
    _require_known(path, values, RUN, COMBINED)
    overrides = [f"{RUN[key]}={value}" for key, value in values.items() if RUN.get(key)]
    patches = values.get("global_params.pooling", "patchnetvlad") == "patchnetvlad"
    overrides.append(f"global_descriptor.method={'patch_netvlad' if patches else 'netvlad'}")
    overrides.append(f"global_descriptor.weights={_weights(path, values)}")
    ks = values.get("feature_match.n_values_all", "1,5,10,20,50,100")
    overrides += [f"evaluation.recall_at=[{ks}]", f"shortlist.k={max(int(k) for k in ks.split(','))}"]
    overrides.append("output.shortlist_name=NetVLAD")
    if not patches:
        return [*overrides, "rerank.k=0"]
    for key in ("patch_sizes", "strides"):
        if f"global_params.{key}" in values:
            overrides.append(f"global_descriptor.{key}=[{values[f'global_params.{key}']}]")
    overrides += ["rerank.method=patch_netvlad", "rerank.k=100", "output.predictions_name=PatchNetVLAD"]
    if "feature_match.patchweights2use" in values:
        overrides.append(f"rerank.patch_weights=[{values['feature_match.patchweights2use']}]")
    matcher = values.get("feature_match.matcher", "RANSAC")
    if matcher.lower() not in SCORING:
        raise ConfigError(f"{path}: matcher = {matcher}: expected RANSAC or spatialApproximator")
    return [*overrides, f"rerank.scoring={SCORING[matcher.lower()]}"]


def given_predictions(path: Path) -> Path | None:
    """The shortlist that the .ini file names for re-ranking, its pred_input_path; None where it says None."""
    given = _read(path).get("feature_match.pred_input_path", "None")
    return None if given == "None" else Path(given)


def training_overrides(path: Path) -> list[str]:
    """Returns the settings of train.ini, as ``key=value``. Raises ConfigError."""
    values = _read(path)
    _require_known(path, values, TRAINING)
    return [
        f"{TRAINING[key]}={value.lower() if key == 'train.optim' else value}"
        for key, value in values.items()
        if TRAINING[key]
    ]


def _read(path: Path) -> dict[str, str]:
    """Every value by ``section.key``, both in lower case as configparser has them."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        with require_file(path).open(encoding="utf-8") as file:
            parser.read_file(file)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable .ini file: {str(error).splitlines()[0]}") from None
    return {f"{section}.{key}": value for section in parser.sections() for key, value in parser[section].items()}


def _require_known(path: Path, values: Mapping[str, str], table: Mapping[str, str], others: Sequence[str] = ()) -> None:
    """Raise ConfigError for a key that Patch-NetVLAD does not know; name those that mean nothing here."""
    known = [*table, *others]
    for key in values:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise ConfigError(f"{path}: unknown key {key!r}{hint}")
    unused = [key for key in values if table.get(key) == ""]
    if unused:
        logger.info("%s: not used here: %s", path, ", ".join(unused))


def _weights(path: Path, values: Mapping[str, str]) -> str:
    """The checkpoint: a published one by its name, or a file as Patch-NetVLAD puts its name together."""
    stem, components = values.get("global_params.resumepath"), values.get("global_params.num_pcs", "0")
    if stem is None:
        raise ConfigError(f"{path}: no resumepath in [global_params], the checkpoint")
    published = WEIGHTS.get(Path(stem).name)
    file = Path(f"{stem}{components if components != '0' else ''}.pth.tar")
    places = [file, *(root / file for root in roots())]
    found = next((place for place in places if place.is_file()), None)
    return str(found or file) if found or published is None else f"{published}{components}"
