"""Compatibility of a matcher's or a vocabulary's weights with the local features of a run."""

from __future__ import annotations

import logging

from vpr.config import MethodSettings
from vpr.core import ConfigError
from vpr.weights.manifest import TrainedFor
from vpr.weights.record import names_of, record_of

logger = logging.getLogger(__name__)


def require_compatible(section: str, weights: str, features: MethodSettings, dim: int = 0, sha256: str = "") -> None:
    """Raise ConfigError if weights were trained for other local features than those of the settings.

    ``section`` is the one that names the weights, "matcher" or "global_descriptor"; ``dim`` and ``sha256`` are the
    extractor's ``dim`` and ``weights`` where it is built already. No image is read, and no network is loaded. Weights
    that do not say what they were trained for are accepted with a warning; "" (no weights) always fits.
    """
    if not weights:
        return
    record = record_of(weights)
    wanted = record.trained_for if record is not None else None
    if wanted is None:
        logger.warning(
            "%s.weights = %s: no record of the local features these weights were trained for; used as they are",
            section,
            weights,
        )
        return
    used = str(getattr(features, "weights", ""))
    names = names_of(used) | ({sha256} if sha256 else set())
    known = record_of(used) is not None
    difference = difference_between(wanted, features.method, names, known=known, dim=dim)
    if difference:
        raise ConfigError(
            f"{section}.weights = {weights!r} was trained for {_described(wanted)}; the local features are "
            f"{features.method}{f' with {used}' if used else ''}{f' of dimension {dim}' if dim else ''}. "
            f"Choose other features ({_as_settings(wanted)}), or other {section} weights"
            + (" (--set global_descriptor.weights= fits a vocabulary on the database)" if section != "matcher" else "")
        )
    if not known and used:
        logger.warning(
            "local_features.weights = %s: no record of these weights; taken for those that %s was trained for (%s)",
            used,
            weights,
            wanted.weights,
        )


def difference_between(wanted: TrainedFor, method: str, names: set[str], *, known: bool, dim: int = 0) -> str:
    """Returns what differs in the features: "method", "dimension" or "weights"; "" if nothing is known to.

    ``names`` are all that tell the weights of the features from others, by name and by sha256; ``known`` says whether
    there is a record of them. Weights of one's own that nobody has a record of may be a copy of the right ones.
    """
    if method != wanted.method:
        return "method"
    if dim and wanted.dim and dim != wanted.dim:
        return "dimension"
    expected = {wanted.weights, wanted.sha256} - {""}
    return "weights" if known and expected and not expected & names else ""


def _described(features: TrainedFor) -> str:
    weights = f" with {features.weights}" if features.weights else ""
    return f"{features.method}{weights}" + (f" of dimension {features.dim}" if features.dim else "")


def _as_settings(features: TrainedFor) -> str:
    weights = f" --set local_features.weights={features.weights}" if features.weights else ""
    return f"--set local_features.method={features.method}{weights}"
