"""Two sets of local features to matches: one file per method, chosen by name from the table."""

from vpr.config import Method
from vpr.core import Matcher
from vpr.matchers import lightglue, nearest, superglue

MATCHERS: dict[str, Method[Matcher]] = {
    "lightglue": Method(lightglue.Settings, lightglue.build),
    "nearest": Method(nearest.Settings, nearest.build),
    "superglue": Method(superglue.Settings, superglue.build),
}
