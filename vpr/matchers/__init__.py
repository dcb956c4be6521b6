"""Two sets of local features, or two images, to matches: one file per method, chosen by name from the tables."""

from vpr.config import Method
from vpr.core import ImageMatcher, Matcher
from vpr.matchers import adalam, eimp, gluestick, imp, lightglue, loftr, nearest, superglue, xfeat_semi_dense

MATCHERS: dict[str, Method[Matcher]] = {
    "adalam": Method(adalam.Settings, adalam.build),
    "eimp": Method(eimp.Settings, eimp.build),
    "eimp_iterative": Method(eimp.EimpIterativeSettings, eimp.build_iterative),
    "imp": Method(imp.Settings, imp.build),
    "imp_iterative": Method(imp.ImpIterativeSettings, imp.build_iterative),
    "lightglue": Method(lightglue.Settings, lightglue.build),
    "nearest": Method(nearest.Settings, nearest.build),
    "superglue": Method(superglue.Settings, superglue.build),
}

LINE_MATCHERS = ("gluestick",)  # image matchers that match line segments too
IMAGE_MATCHERS: dict[str, Method[ImageMatcher]] = {
    "gluestick": Method(gluestick.Settings, gluestick.build),
    "loftr": Method(loftr.Settings, loftr.build),
    "xfeat_semi_dense": Method(xfeat_semi_dense.Settings, xfeat_semi_dense.build),
}
