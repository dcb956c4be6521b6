"""Two sets of local features to matches: one file per method, chosen by name from the table."""

from vpr.config import Method
from vpr.core import Matcher
from vpr.matchers import adalam, lightglue, nearest, superglue

MATCHERS: dict[str, Method[Matcher]] = {
    "adalam": Method(adalam.Settings, adalam.build),
    "lightglue": Method(lightglue.Settings, lightglue.build),
    "nearest": Method(nearest.Settings, nearest.build),
    "superglue": Method(superglue.Settings, superglue.build),
}
