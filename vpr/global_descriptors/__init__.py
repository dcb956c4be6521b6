"""Image to one vector: one file per method, chosen by name from the tables."""

from vpr.config import Method
from vpr.core import GlobalDescriptor, LocalAggregator
from vpr.global_descriptors import (
    hub,
    mixvpr,
    netvlad,
    netvlad_mat,
    patch_netvlad,
    place,
    resnet,
    superpoint_global,
    thumbnail,
    vlad,
)

# Methods that take the image.
GLOBAL_DESCRIPTORS: dict[str, Method[GlobalDescriptor]] = {
    "cosplace": Method(resnet.CosPlaceSettings, resnet.build),
    "eigenplaces": Method(resnet.EigenPlacesSettings, resnet.build),
    "gem": Method(resnet.Settings, resnet.build),
    "hub": Method(hub.Settings, hub.build),
    "mixvpr": Method(mixvpr.Settings, mixvpr.build),
    "netvlad": Method(netvlad.Settings, netvlad.build),
    "netvlad_mat": Method(netvlad_mat.Settings, netvlad_mat.build),
    "patch_netvlad": Method(patch_netvlad.Settings, patch_netvlad.build),
    "place": Method(place.Settings, place.build),
    "superpoint_global": Method(superpoint_global.Settings, superpoint_global.build),
    "thumbnail": Method(thumbnail.Settings, thumbnail.build),
}

# Methods that aggregate the local features of an image, with a model fitted on a database.
LOCAL_AGGREGATORS: dict[str, Method[LocalAggregator]] = {
    "vlad": Method(vlad.Settings, vlad.build),
}
