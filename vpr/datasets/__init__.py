"""Data sets: readers of every convention in use, ground truth, and the catalogue of evaluation protocols."""

from vpr.datasets.catalogue import PROTOCOLS, EvaluationProtocol
from vpr.datasets.locating import find, layouts, missing_images
from vpr.datasets.plausibility import warn, warnings_of, with_warnings
from vpr.datasets.protocols import describe, frame_positives, hint, judge, protocol, protocol_hash, rule
from vpr.datasets.readers import READERS, Reader, read_pair, reader

__all__ = [
    "PROTOCOLS",
    "READERS",
    "EvaluationProtocol",
    "Reader",
    "describe",
    "find",
    "frame_positives",
    "hint",
    "judge",
    "layouts",
    "missing_images",
    "protocol",
    "protocol_hash",
    "read_pair",
    "reader",
    "rule",
    "warn",
    "warnings_of",
    "with_warnings",
]
