"""What comes with vpr for the maps of its default features: the PCA of local descriptors, and the probability."""

from __future__ import annotations

from vpr.config import config_path, load
from vpr.maps.local_codec import LocalCodec, Profile, read_pca
from vpr.maps.probability import Probability
from vpr.settings import Settings
from vpr.weights import find
from vpr.weights.manifest import read_manifest
from vpr.weights.record import names_of

PCA = "vpr-superpoint-pca"

# By profile, for the local features, matcher and verification of the config `map`; benchmarks/map_answers.py --fit.
_ORIGIN = "344 groups of places, none measured on, photographs whole and at 160 pixels; a third of no place of the map"
PROBABILITIES = {
    "default": Probability(1.052, 0.636, queries=688, origin=_ORIGIN, measure="keypoints"),
    "compact": Probability(1.016, 0.637, queries=688, origin=_ORIGIN, measure="keypoints"),
}


def codec(settings: Settings, profile: Profile) -> LocalCodec | None:
    """The codec of the local features, where their PCA comes with vpr; else None: it is fitted on the map's first."""
    entry = read_manifest()[PCA]
    weights = str(getattr(settings.local_features, "weights", ""))
    if entry.trained_for is None or not {entry.trained_for.weights} & names_of(weights):
        return None
    return read_pca(find(PCA).path).codec(profile)


def probability(settings: Settings, profile: str) -> Probability | None:
    """The probability of a first candidate by its evidence, where it was fitted for these settings."""
    fitted_with = load(Settings, config_path("map"))
    sections = ("local_features", "matcher", "verification")
    same = all(getattr(settings, name) == getattr(fitted_with, name) for name in sections)
    same &= settings.rerank.model_copy(update={"k": fitted_with.rerank.k}) == fitted_with.rerank
    return PROBABILITIES.get(profile) if same else None
