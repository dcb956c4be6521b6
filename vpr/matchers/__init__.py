"""Two sets of local features, or two images, to matches: one file per method, chosen by name from the tables."""

from vpr.config import Method
from vpr.core import ImageMatcher, Matcher
from vpr.matchers import adalam, lightglue, loftr, nearest, superglue

MATCHERS: dict[str, Method[Matcher]] = {
    "adalam": Method(adalam.Settings, adalam.build),
    "lightglue": Method(lightglue.Settings, lightglue.build),
    "nearest": Method(nearest.Settings, nearest.build),
    "superglue": Method(superglue.Settings, superglue.build),
}

IMAGE_MATCHERS: dict[str, Method[ImageMatcher]] = {
    "loftr": Method(loftr.Settings, loftr.build),
}
