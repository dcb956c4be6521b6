"""Data sets: readers of every convention in use, ground truth, and the catalogue of evaluation protocols."""

from vpr.datasets.catalogue import PROTOCOLS, EvaluationProtocol
from vpr.datasets.protocols import describe, frame_positives, judge, protocol
from vpr.datasets.readers import READERS, Reader, read_pair, reader

__all__ = [
    "PROTOCOLS",
    "READERS",
    "EvaluationProtocol",
    "Reader",
    "describe",
    "frame_positives",
    "judge",
    "protocol",
    "read_pair",
    "reader",
]
