"""Image to keypoints, scores and descriptors: one file per method, chosen by name from the table."""

from vpr.config import Method
from vpr.core import LocalExtractor
from vpr.local_features import aliked, disk, doghardnet, orb, rootsift, superpoint, xfeat

LOCAL_EXTRACTORS: dict[str, Method[LocalExtractor]] = {
    "aliked": Method(aliked.Settings, aliked.build),
    "disk": Method(disk.Settings, disk.build),
    "doghardnet": Method(doghardnet.Settings, doghardnet.build),
    "orb": Method(orb.Settings, orb.build),
    "rootsift": Method(rootsift.Settings, rootsift.build),
    "sift": Method(rootsift.Settings, rootsift.build),
    "superpoint": Method(superpoint.Settings, superpoint.build),
    "xfeat": Method(xfeat.Settings, xfeat.build),
}
