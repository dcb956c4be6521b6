"""What comes with vpr for the maps of its default features: the PCA of local descriptors, and the probability."""

from __future__ import annotations

from vpr.config import fingerprint
from vpr.maps.local_codec import LocalCodec, Profile, read_pca
from vpr.maps.probability import Probability
from vpr.settings import Settings
from vpr.weights import find
from vpr.weights.manifest import read_manifest
from vpr.weights.record import names_of

PCA = "vpr-superpoint-pca"

# By a fingerprint of what the evidence depends on, and the profile.
PROBABILITIES: dict[tuple[str, str], Probability] = {}


def codec(settings: Settings, profile: Profile) -> LocalCodec | None:
    """The codec of the local features, where their PCA comes with vpr; else None: it is fitted on the map's first."""
    entry = read_manifest()[PCA]
    weights = str(getattr(settings.local_features, "weights", ""))
    if entry.trained_for is None or not {entry.trained_for.weights} & names_of(weights):
        return None
    return read_pca(find(PCA).path).codec(profile)


def probability(settings: Settings, profile: str) -> Probability | None:
    """The probability of a first candidate by its evidence, where it was fitted for these settings."""
    return PROBABILITIES.get((evidence_key(settings), profile))


def evidence_key(settings: Settings) -> str:
    """A fingerprint of the settings that evidence depends on."""
    return fingerprint(
        {
            "local_features": settings.local_features,
            "matcher": settings.matcher,
            "verification": settings.verification,
            "rerank": settings.rerank,
            "shortlist": {name: getattr(settings, name) for name in ("global_descriptor", "joined")},
        }
    )
