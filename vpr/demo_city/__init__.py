"""A small city that renders itself: a place-recognition data set without a download, with depth and camera poses.

Modelled: a slightly irregular grid of streets between closed rows of buildings. The looks of buildings are few and
shared, so that places resemble each other; stains, signs, posters, graffiti, curtains and cracks are each building's
own. Cornices, balconies, awnings, signs, trees, lamps, bins and parked cars stand out in depth. Sun with shadows on
everything within 55 m, sky light, street lamps and lit windows, haze, clouds, exposure, vignetting and sensor noise.
The database is one drive on one sunny day; queries come from beside its line in other light, with other cars parked,
and one in ten from a street that the drive left out.

Every image has the class of each pixel (Cityscapes ids). Asked for, moving vehicles and people cover a share of each
image; without that there are none.

Not modelled: seasons and weather on the ground, mirror images in glass, light that bounces
from wall to wall, hills, roofs seen from above, lens distortion, motion blur and rolling shutter. What is farther
than 190 m is not drawn, and small parts of facades vanish beyond 75 m. The queries see the street at its true depth;
leaves are flat cards.

Every surface is a flat quadrilateral with a painted texture. Their planes give each pixel's depth exactly, and the
drawing needs nothing but numpy and OpenCV. Equal arguments give equal pixels on one machine with one OpenCV version.
A script that calls ``write_demo_city`` with several workers needs the usual ``if __name__ == "__main__":``.
"""

from vpr.demo_city.camera import Camera, reproject, street_camera, visible
from vpr.demo_city.layout import City, build_city
from vpr.demo_city.light import LIGHTS, Light, light_named
from vpr.demo_city.records import depth_path, read_depth, read_shots
from vpr.demo_city.render import Rendering, render
from vpr.demo_city.shots import Shot, plan_shots
from vpr.demo_city.write import write_demo_city

__all__ = [
    "LIGHTS",
    "Camera",
    "City",
    "Light",
    "Rendering",
    "Shot",
    "build_city",
    "depth_path",
    "light_named",
    "plan_shots",
    "read_depth",
    "read_shots",
    "render",
    "reproject",
    "street_camera",
    "visible",
    "write_demo_city",
]
