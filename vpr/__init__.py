"""Two-stage visual place recognition: retrieve with global descriptors, re-rank with local features.

    import vpr

    matches = vpr.match("a.jpg", "b.jpg")
    matches.save("matches.png")
    result = vpr.run("photos/known", "photos/unknown")
    city = vpr.Map.create("city", "photos/known")
    answer = city.locate("photo.jpg")

Importing this package imports no torch; that happens at the first call.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpr.api import (
        DescriptorModel,
        ExtractorModel,
        MatcherModel,
        PairMatches,
        RunSummary,
        evaluate,
        load_descriptor,
        load_extractor,
        load_matcher,
        match,
        run,
    )
    from vpr.core import ConfigError, DataError, ImageError, LocalFeatures, SearchError, VprError
    from vpr.maps import Answer, Candidate, Map
    from vpr.serve.client import Client
    from vpr.weights import WeightsError

__version__ = "0.2.0"

__all__ = [
    "Answer",
    "Candidate",
    "Client",
    "ConfigError",
    "DataError",
    "DescriptorModel",
    "ExtractorModel",
    "ImageError",
    "LocalFeatures",
    "Map",
    "MatcherModel",
    "PairMatches",
    "RunSummary",
    "SearchError",
    "VprError",
    "WeightsError",
    "evaluate",
    "load_descriptor",
    "load_extractor",
    "load_matcher",
    "match",
    "run",
]

_HOMES = {
    **dict.fromkeys(("ConfigError", "DataError", "ImageError", "LocalFeatures", "SearchError", "VprError"), "vpr.core"),
    **dict.fromkeys(("Answer", "Candidate", "Map"), "vpr.maps"),
    "Client": "vpr.serve.client",
    "WeightsError": "vpr.weights",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when they are first used."""
    if name not in __all__:
        raise AttributeError(f"module 'vpr' has no attribute {name!r}")
    value = getattr(import_module(_HOMES.get(name, "vpr.api")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
