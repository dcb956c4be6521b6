"""Image to points, scores and descriptors: one file per method, chosen by name from the table."""

from vpr.config import Method
from vpr.core import LocalExtractor
from vpr.local_features import rootsift, superpoint

LOCAL_EXTRACTORS: dict[str, Method[LocalExtractor]] = {
    "rootsift": Method(rootsift.Settings, rootsift.build),
    "superpoint": Method(superpoint.Settings, superpoint.build),
}
