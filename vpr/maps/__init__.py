"""The persistent map: images with positions, added and removed at any time, asked with one photograph."""

from vpr.maps.answers import Answer, Candidate
from vpr.maps.compacting import Compacted
from vpr.maps.info import MapInfo
from vpr.maps.locating import MatchedPair
from vpr.maps.manifest import StoredImage
from vpr.maps.map import Map
from vpr.maps.writing import Added

__all__ = ["Added", "Answer", "Candidate", "Compacted", "Map", "MapInfo", "MatchedPair", "StoredImage"]
