"""The table of known layouts: how each published network names its tensors.

Names are written as patterns: ``conv{1..4}{a,b}.weight`` stands for eight of them, ``layers.{0..<layers}`` for as many
as the size ``layers`` of the file says, ``{0..<modules/3}`` for every third. Source: the code that builds the
networks, in the repositories that manifest.toml names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

State = Mapping[str, "Tensor"]
Measure = Callable[[State], int]


@dataclass(frozen=True)
class Layout:
    """One row of the table; the first whose signature keys are all in a file says what the file is."""

    name: str
    signature_keys: tuple[str, ...]  # names that no layout further down has, all of them together
    loads: tuple[str, ...] = ()  # methods of vpr that take such a file
    condition: Callable[[State], bool] | None = None  # of a layout that differs from another in shapes alone
    variant: Callable[[State], str] | None = None  # of several networks with these names, which one the shapes tell
    sizes: Mapping[str, Measure] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  # patterns of all names; () where they are not known
    optional: tuple[str, ...] = ()  # patterns of names that a file may have


def axis(name: str, dimension: int = 0) -> Measure:
    """The length of a tensor along an axis; 0 if the file has no such tensor."""
    return lambda state: state[name].shape[dimension] if name in state and dimension < state[name].dim() else 0


def count(prefix: str) -> Measure:
    """One more than the highest number that follows the prefix in a name."""
    pattern = re.compile(re.escape(prefix) + r"(\d{1,9})\.")

    def measure(state: State) -> int:
        highest = max((int(found[1]) for name in state if (found := pattern.match(name))), default=-1)
        return min(1 + highest, len(state))  # a damaged or hostile name may say any number

    return measure


LINEAR = "{weight,bias}"
NORM = "{weight,bias,running_mean,running_var}"  # of BatchNorm; num_batches_tracked, which old files lack, is ignored
VGG16 = "{0,2,5,7,10,12,14,17,19,21,24,26,28}"  # its convolutions

SUPERPOINT = (
    Layout(
        "SuperPoint v1",
        loads=("superpoint",),
        signature_keys=("conv1a.weight", "convPb.weight", "convDb.weight"),
        sizes={"descriptor": axis("convDb.weight")},
        keys=(f"conv{{1..4}}{{a,b}}.{LINEAR}", f"conv{{P,D}}{{a,b}}.{LINEAR}"),
    ),
    Layout(
        "SuperPoint, open weights",
        loads=("superpoint",),
        signature_keys=("backbone.0.0.conv.weight", "detector.1.conv.weight", "descriptor.1.conv.weight"),
        sizes={"descriptor": axis("descriptor.1.conv.weight")},
        keys=tuple(
            f"{block}.{part}"
            for block in ("backbone.{0..3}.{0,1}", "{detector,descriptor}.{0,1}")
            for part in (f"conv.{LINEAR}", f"bn.{NORM}")
        ),
    ),
    Layout(
        "SuperPoint, gauss2",
        loads=("superpoint",),
        signature_keys=("inc.conv.conv.0.weight", "convDb.weight", "bnDb.weight"),
        sizes={"descriptor": axis("convDb.weight")},
        keys=(
            f"{{inc.conv,down1.mpconv.1,down2.mpconv.1,down3.mpconv.1}}.conv.{{0,3}}.{LINEAR}",
            f"{{inc.conv,down1.mpconv.1,down2.mpconv.1,down3.mpconv.1}}.conv.{{1,4}}.{NORM}",
            f"conv{{P,D}}{{a,b}}.{LINEAR}",
            f"bn{{P,D}}{{a,b}}.{NORM}",
        ),
    ),
)

SUPERGLUE = (
    Layout(
        "SuperGlue",
        loads=("superglue",),
        signature_keys=("gnn.layers.0.attn.merge.weight", "final_proj.weight", "bin_score"),
        sizes={
            "layers": count("gnn.layers."),
            "descriptor": axis("final_proj.weight"),
            "encoder modules": count("kenc.encoder."),
        },
        keys=(
            "bin_score",
            f"final_proj.{LINEAR}",
            f"kenc.encoder.{{0..<encoder modules/3}}.{LINEAR}",
            f"kenc.encoder.{{1..<encoder modules/3}}.{NORM}",
            f"gnn.layers.{{0..<layers}}.{{attn.merge,attn.proj.0,attn.proj.1,attn.proj.2,mlp.0,mlp.3}}.{LINEAR}",
            f"gnn.layers.{{0..<layers}}.mlp.1.{NORM}",
        ),
    ),
    Layout(
        "GlueStick",
        loads=("gluestick",),
        signature_keys=("gnn.layers.0.update.attn.merge.weight", "final_line_proj.weight", "line_bin_score"),
        sizes={
            "layers": count("gnn.layers."),
            "line layers": count("gnn.line_layers."),
            "descriptor": axis("final_proj.weight"),
            "encoder modules": count("kenc.encoder."),
        },
        keys=(
            "{bin_score,line_bin_score}",
            f"{{final_proj,final_line_proj}}.{LINEAR}",
            f"{{kenc,lenc}}.encoder.{{0..<encoder modules/3}}.{LINEAR}",
            f"{{kenc,lenc}}.encoder.{{1..<encoder modules/3}}.{NORM}",
            f"gnn.layers.{{0..<layers}}.update.{{attn.merge,attn.proj.0,attn.proj.1,attn.proj.2,mlp.0,mlp.3}}.{LINEAR}",
            f"gnn.layers.{{0..<layers}}.update.mlp.1.{NORM}",
            f"gnn.line_layers.{{0..<line layers}}.{{mlp.0,mlp.3}}.{LINEAR}",
            f"gnn.line_layers.{{0..<line layers}}.mlp.1.{NORM}",
        ),
    ),
    Layout(
        "IMP or EIMP",
        loads=("eimp", "eimp_iterative", "imp", "imp_iterative"),
        signature_keys=("gnn.layers.0.attn.merge.weight", "final_proj.0.weight", "bin_score"),
        sizes={
            "layers": count("gnn.layers."),
            "layers before sharing": lambda state: min(6, count("gnn.layers.")(state)),
            "iterations": count("final_proj."),
            "descriptor": axis("final_proj.0.weight"),
            "encoder modules": count("kenc.encoder."),
        },
        keys=(
            "bin_score",
            f"final_proj.{{0..<iterations}}.{LINEAR}",
            f"kenc.encoder.{{0..<encoder modules/3}}.{LINEAR}",
            f"gnn.layers.{{0..<layers}}.{{mlp.0,mlp.3}}.{LINEAR}",
            # Iterations 3, 5, 7, ... share attention: layers 6, 7, 10, 11, ...
            *(
                f"gnn.layers.{layers}.{{attn.merge,attn.proj.0,attn.proj.1,attn.proj.2}}.{LINEAR}"
                for layers in ("{0..<layers before sharing}", "{8..<layers/4}", "{9..<layers/4}")
            ),
            *(f"gnn.layers.{layers}.{{proj,merge}}.{LINEAR}" for layers in ("{6..<layers/4}", "{7..<layers/4}")),
        ),
    ),
)


ORIENTED = 4  # inputs of the positional encoding: x, y, scale and orientation
LIGHTGLUE_INPUTS = {  # by the length of the local descriptors; SuperPoint's may have any
    64: "input 64, as for XFeat",
    128: "input 128, as for DISK and ALIKED",
    256: "input 256, as for SuperPoint",
}


def _lightglue_input(state: State) -> int:
    """The length of the local descriptors."""
    return axis("input_proj.weight", 1)(state) or axis("log_assignment.0.final_proj.weight", 1)(state)


def _lightglue(name: str, own: str, cross: str, oriented: bool = False, part: str = "") -> Layout:
    """LightGlue with the attention blocks of its layers under these patterns; ``part`` comes before every name."""
    final = f"{part}log_assignment.0.final_proj.weight"
    own, cross = part + own, part + cross
    return Layout(
        name,
        loads=("lightglue",),
        signature_keys=(own.replace("{0..<layers}", "0") + ".Wqkv.weight", f"{part}posenc.Wr.weight", final),
        condition=(lambda state: axis("posenc.Wr.weight", 1)(state) == ORIENTED) if oriented else None,
        variant=None if part or oriented else lambda state: LIGHTGLUE_INPUTS.get(_lightglue_input(state), ""),
        sizes={
            "layers": count(f"{part}log_assignment."),
            "exits": lambda state: count(f"{part}log_assignment.")(state) - 1,  # layers after which a pair may be done
            "descriptor": lambda state: axis(f"{part}input_proj.weight", 1)(state) or axis(final, 1)(state),
            "inner width": axis(final, 1),
            "inputs per keypoint": axis(f"{part}posenc.Wr.weight", 1),
        },
        keys=(
            f"{part}posenc.Wr.weight",
            f"{own}.{{Wqkv,out_proj,ffn.0,ffn.1,ffn.3}}.{LINEAR}",
            f"{cross}.{{to_qk,to_v,to_out,ffn.0,ffn.1,ffn.3}}.{LINEAR}",
            f"{part}log_assignment.{{0..<layers}}.{{matchability,final_proj}}.{LINEAR}",
            f"{part}token_confidence.{{0..<exits}}.token.0.{LINEAR}",
            *((f"input_proj.{LINEAR}",) if oriented else ()),
        ),
        optional=(
            f"{part}input_proj.{LINEAR}",
            f"{part}confidence_thresholds",
            f"{part}log_assignment.{{0..<layers}}.r",
            *(f"extractor.model.net.{key}" for key in (XFEAT_KEYS if part else ())),
        ),
    )


def _numbered(prefix: str, blocks: str, suffix: str) -> tuple[str, str]:
    """A convolution without bias and its BatchNorm without gain and shift, of each of the blocks."""
    return f"{prefix}{blocks}.{suffix}.0.weight", f"{prefix}{blocks}.{suffix}.1.{{running_mean,running_var}}"


XFEAT_BLOCKS = (
    "block1.{0..3}", "block2.{0,1}", "block3.{0..2}", "block4.{0..2}", "block5.{0..3}", "block_fusion.{0,1}",
    "heatmap_head.{0,1}", "keypoint_head.{0..2}",
)  # fmt: skip
XFEAT_KEYS = (
    f"skip1.1.{LINEAR}",
    *(key for blocks in XFEAT_BLOCKS for key in _numbered("", blocks, "layer")),
    f"{{block_fusion.2,heatmap_head.2,keypoint_head.3}}.{LINEAR}",
    f"fine_matcher.{{0,3,6,9,12}}.{LINEAR}",
    "fine_matcher.{1,4,7,10}.{running_mean,running_var}",
)

OWN, CROSS = "transformers.{0..<layers}.self_attn", "transformers.{0..<layers}.cross_attn"
FIRST_OWN, FIRST_CROSS = "self_attn.{0..<layers}", "cross_attn.{0..<layers}"
ORIENTED_NAME = "LightGlue with scale and orientation, as for SIFT"
LIGHTGLUE = (
    _lightglue(ORIENTED_NAME, OWN, CROSS, oriented=True),
    _lightglue(f"{ORIENTED_NAME}, as first published", FIRST_OWN, FIRST_CROSS, oriented=True),
    _lightglue("LightGlue", OWN, CROSS),
    _lightglue("LightGlue, as first published", FIRST_OWN, FIRST_CROSS),
    _lightglue("LighterGlue for XFeat", OWN, CROSS, part="matcher."),
    _lightglue("LighterGlue for XFeat, as first published", FIRST_OWN, FIRST_CROSS, part="matcher."),
)

ALIKED_VARIANTS = {(128, 16): "n16 or n16rot", (128, 32): "n32", (64, 16): "t16"}  # by descriptor and samples
FREE_FEATURES = (
    Layout(
        "ALIKED",
        loads=("aliked",),
        signature_keys=("desc_head.agg_weights", "score_head.6.weight", "block1.conv1.weight"),
        variant=lambda state: ALIKED_VARIANTS.get(
            (axis("desc_head.agg_weights", 1)(state), axis("desc_head.agg_weights")(state)), ""
        ),
        sizes={"descriptor": axis("desc_head.agg_weights", 1), "samples per descriptor": axis("desc_head.agg_weights")},
        keys=(
            "block{1,2}.conv{1,2}.weight",
            f"block{{3,4}}.conv{{1,2}}.offset_conv.{LINEAR}",
            "block{3,4}.conv{1,2}.regular_conv.weight",
            f"block{{1..4}}.bn{{1,2}}.{NORM}",
            f"block{{2..4}}.downsample.{LINEAR}",
            "conv{1..4}.weight",
            "score_head.{0,2,4,6}.weight",
            "desc_head.agg_weights",
            f"desc_head.offset_conv.{{0,2}}.{LINEAR}",
            "desc_head.sf_conv.weight",
        ),
    ),
    Layout(
        "DISK",
        loads=("disk",),
        signature_keys=("unet.path_down.0.1.3.weight", "unet.path_up.3.conv.3.weight"),
        sizes={"descriptor": lambda state: axis("unet.path_up.3.conv.3.weight")(state) - 1},
        keys=(
            f"unet.path_down.{{0..4}}.1.3.{LINEAR}",
            "unet.path_down.{1..4}.1.1.weight",
            "unet.path_up.{0..3}.conv.1.weight",
            f"unet.path_up.{{0..3}}.conv.3.{LINEAR}",
        ),
    ),
    Layout(
        "XFeat",
        loads=("xfeat", "xfeat_semi_dense"),
        signature_keys=("skip1.1.weight", "block_fusion.2.weight", "fine_matcher.12.weight"),
        sizes={"descriptor": axis("block_fusion.2.weight")},
        keys=XFEAT_KEYS,
    ),
    Layout(
        "HardNet",
        loads=("doghardnet",),
        signature_keys=("features.0.weight", "features.19.weight", "features.20.running_var"),
        sizes={"descriptor": axis("features.19.weight")},
        keys=("features.{0,3,6,9,12,15,19}.weight", "features.{1,4,7,10,13,16,20}.{running_mean,running_var}"),
    ),
    Layout(
        "segmentation head on SuperPoint",
        loads=("segmentation",),
        signature_keys=("down.0.0.weight", "aspp.0.0.weight", "last.weight"),
        sizes={"channels": axis("down.0.0.weight", 1), "classes": axis("last.weight"), "width": axis("last.weight", 1)},
        keys=(
            "{down.{0,1},aspp.{0..3},project,skip,fuse}.0.weight",
            f"{{down.{{0,1}},aspp.{{0..3}},project,skip,fuse}}.1.{LINEAR}",
            f"{{everywhere,last}}.{LINEAR}",
        ),
    ),
    Layout(
        "EfficientNet-Lite",
        signature_keys=("_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_conv_head.weight"),
        variant=lambda state: "Lite0" if count("_blocks.")(state) == 16 else "",
        sizes={"blocks": count("_blocks."), "channels": axis("_conv_head.weight"), "classes": axis("_fc.weight")},
        keys=(
            "_conv_stem.weight",
            f"_bn{{0,1}}.{NORM}",
            "_blocks.{0..<blocks}.{_depthwise_conv,_project_conv}.weight",
            f"_blocks.{{0..<blocks}}.{{_bn1,_bn2}}.{NORM}",
            "_blocks.{1..<blocks}._expand_conv.weight",
            f"_blocks.{{1..<blocks}}._bn0.{NORM}",
            "_conv_head.weight",
        ),
        optional=(f"_fc.{LINEAR}",),
    ),
)

CLUSTERS = {"clusters": axis("pool.centroids"), "local descriptor": axis("pool.centroids", 1)}
NETVLAD_KEYS = (f"encoder.{VGG16}.{LINEAR}", "pool.conv.weight", "pool.centroids")
NETVLAD = (
    Layout(
        "NetVLAD with PCA whitening, as of Patch-NetVLAD",
        loads=("netvlad", "patch_netvlad"),
        signature_keys=("encoder.0.weight", "pool.centroids", "WPCA.0.weight"),
        sizes={**CLUSTERS, "descriptor": axis("WPCA.0.weight")},
        keys=(*NETVLAD_KEYS, f"WPCA.0.{LINEAR}"),
        optional=("pool.conv.bias",),
    ),
    Layout(
        "NetVLAD, not whitened",
        loads=("netvlad",),
        signature_keys=("encoder.0.weight", "pool.centroids"),
        sizes=CLUSTERS,
        keys=NETVLAD_KEYS,
        optional=("pool.conv.bias",),
    ),
    Layout(
        "NetVLAD, MATLAB network",
        loads=("netvlad_mat",),
        signature_keys=("layers.0.weights.0", "layers.30.weights.0"),
        sizes={
            "clusters": axis("layers.30.weights.0", 1),
            "local descriptor": axis("layers.30.weights.0"),
            "descriptor": axis("layers.33.weights.1"),
        },
        keys=(f"layers.{VGG16}.weights.{{0,1}}", "layers.{30,33}.weights.{0,1}", "meta.normalization.averageImage"),
    ),
)


@dataclass(frozen=True)
class BackboneLayout:
    """A torchvision network without its classifier, under ``backbone``, its children numbered."""

    name: str
    signature_keys: str
    sizes: Mapping[str, Measure]
    keys: tuple[str, ...]
    optional: tuple[str, ...] = ()


def _resnet(name: str, convolutions: int, downsampling: str, depths: Mapping[int, int]) -> BackboneLayout:
    """A ResNet whose blocks have that many convolutions; ``depths`` tells the depth from the blocks of stage 3."""
    blocks = {f"blocks of stage {i + 1}": count(f"backbone.{4 + i}.") for i in range(4)}
    each = [f"backbone.{4 + i}.{{0..<blocks of stage {i + 1}}}" for i in range(4)]
    return BackboneLayout(
        name,
        signature_keys=f"backbone.4.0.conv{convolutions}.weight",
        sizes={"depth": lambda state: depths.get(blocks["blocks of stage 3"](state), 0), **blocks},
        keys=(
            "backbone.0.weight",
            f"backbone.1.{NORM}",
            *(f"{block}.conv{{1..{convolutions}}}.weight" for block in each),
            *(f"{block}.bn{{1..{convolutions}}}.{NORM}" for block in each),
            f"backbone.{downsampling}.0.downsample.0.weight",
            f"backbone.{downsampling}.0.downsample.1.{NORM}",
        ),
        optional=("backbone.7.0.downsample.0.weight", f"backbone.7.0.downsample.1.{NORM}"),  # if there is a stage 4
    )


BACKBONES = (
    _resnet("ResNet with bottlenecks", 3, "{4,5,6}", {6: 50, 23: 101, 36: 152}),
    _resnet("ResNet", 2, "{5,6}", {2: 18, 6: 34}),
    BackboneLayout("VGG16", "backbone.28.weight", {}, (f"backbone.{VGG16}.{LINEAR}",)),
)
DVGL = "deep visual geo-localization benchmark"
HEADS = (
    Layout(
        "CosPlace or EigenPlaces",
        loads=("cosplace", "eigenplaces"),
        signature_keys=("aggregation.1.p", "aggregation.3.weight"),
        sizes={"descriptor": axis("aggregation.3.weight")},
        keys=("aggregation.1.p", f"aggregation.3.{LINEAR}"),
    ),
    Layout(f"GeM of the {DVGL}", loads=("gem",), signature_keys=("aggregation.1.p",), keys=("aggregation.1.p",)),
    Layout(
        f"GeM with a last layer, of the {DVGL}",
        signature_keys=("aggregation.0.1.p", "aggregation.1.weight"),
        sizes={"descriptor": axis("aggregation.1.weight")},
        keys=("aggregation.0.1.p", f"aggregation.1.{LINEAR}"),
    ),
    Layout(
        f"NetVLAD of the {DVGL}",
        signature_keys=("aggregation.conv.weight", "aggregation.centroids"),
        sizes={"clusters": axis("aggregation.centroids"), "local descriptor": axis("aggregation.centroids", 1)},
        keys=("aggregation.conv.weight", "aggregation.centroids"),
        optional=("aggregation.conv.bias",),
    ),
)
BACKBONES_WITH_HEADS = tuple(
    Layout(
        f"{head.name}, {backbone.name}",
        loads=head.loads,
        signature_keys=(*head.signature_keys, backbone.signature_keys),
        sizes={**head.sizes, **backbone.sizes},
        keys=(*head.keys, *backbone.keys),
        optional=(*head.optional, *backbone.optional),
    )
    for head in HEADS
    for backbone in BACKBONES
)

SUPERPOINT_BACKBONES = (
    BackboneLayout("SuperPoint's backbone", "encoder.conv1a.weight", {}, (f"encoder.conv{{1..4}}{{a,b}}.{LINEAR}",)),
    BackboneLayout(
        "SuperPoint's backbone, open weights",
        "encoder.backbone.0.0.conv.weight",
        {},
        (f"encoder.backbone.{{0..3}}.{{0,1}}.conv.{LINEAR}", f"encoder.backbone.{{0..3}}.{{0,1}}.bn.{NORM}"),
    ),
)
AGGREGATIONS = (
    ("GeM", "mean.p", ("mean.p", f"linear.{LINEAR}")),
    ("NetVLAD", "centroids", ("centroids", f"{{reduce,assign}}.{LINEAR}")),
    ("Optimal transport", "bin", ("bin", f"{{reduce,score,scene}}.{LINEAR}")),
)
GLOBAL_ON_SUPERPOINT = tuple(
    Layout(
        f"{name} on {backbone.name}",
        loads=("superpoint_global",),
        signature_keys=(backbone.signature_keys, "head.0.conv.weight", f"aggregation.{signature_keys}"),
        sizes={"convolutions": count("head."), "whitened to": axis("whitening.weight")},
        keys=(
            *backbone.keys,
            "head.{0..<convolutions}.conv.weight",
            f"head.{{0..<convolutions}}.bn.{NORM}",
            *(f"aggregation.{key}" for key in keys),
            f"centre.{NORM}",
        ),
        optional=(f"whitening.{LINEAR}",),
    )
    for name, signature_keys, keys in AGGREGATIONS
    for backbone in SUPERPOINT_BACKBONES
)

# The blocks of ResNet50 to its third stage.
MIX_BLOCKS = ",".join(f"layer{stage}.{i}." for stage, blocks in ((1, 3), (2, 4), (3, 6)) for i in range(blocks))
PLACE = (
    Layout(
        "EfficientNet-Lite0 with VLAD and layout",
        loads=("place",),
        signature_keys=("backbone.stem.weight", "aggregation.assign.weight", "layout.reduce.weight"),
        sizes={
            "blocks": count("backbone.blocks."),
            "clusters": axis("aggregation.centroids"),
            "descriptor": axis("projection.weight"),
        },
        keys=(
            f"backbone.stem.{LINEAR}",
            f"backbone.blocks.{{0..<blocks}}.{{depthwise,project}}.{LINEAR}",
            f"backbone.blocks.{{1..<blocks}}.expand.{LINEAR}",
            "aggregation.centroids",
            f"aggregation.assign.{LINEAR}",
            f"layout.reduce.{LINEAR}",
            f"projection.{LINEAR}",
        ),
    ),
)
OTHERS = (
    Layout("SelaVPR", signature_keys=("aggregation.1.p", "LocalAdapt.upconv1.weight")),
    Layout("MegaLoc", signature_keys=("aggregator.agg.dust_bin", "aggregator.linear.weight")),
    Layout("SALAD", signature_keys=("aggregator.dust_bin", "aggregator.score.0.weight")),
    Layout(
        "MixVPR",
        loads=("mixvpr",),
        signature_keys=("aggregator.channel_proj.weight", "aggregator.row_proj.weight", "backbone.model.conv1.weight"),
        sizes={
            "mixers": count("aggregator.mix."),
            "channels": axis("aggregator.channel_proj.weight"),
            "rows": axis("aggregator.row_proj.weight"),
        },
        keys=(
            f"aggregator.mix.{{0..<mixers}}.mix.{{0,1,3}}.{LINEAR}",
            f"aggregator.{{channel_proj,row_proj}}.{LINEAR}",
            f"backbone.model.{{,{MIX_BLOCKS}}}conv1.weight",
            f"backbone.model.{{,{MIX_BLOCKS}}}bn1.{NORM}",
            f"backbone.model.{{{MIX_BLOCKS}}}conv{{2,3}}.weight",
            f"backbone.model.{{{MIX_BLOCKS}}}bn{{2,3}}.{NORM}",
            "backbone.model.layer{1..3}.0.downsample.0.weight",
            f"backbone.model.layer{{1..3}}.0.downsample.1.{NORM}",
        ),
    ),
    Layout("Bag of Queries", signature_keys=("aggregator.proj_c.weight", "aggregator.norm_input.weight")),
    Layout(
        "VLAD fitted by `vpr fit`",
        loads=("vlad",),
        signature_keys=("centroids",),
        sizes={"clusters": axis("centroids"), "local descriptor": axis("centroids", 1)},
        keys=("centroids",),
        optional=("whitening.{weight,bias,variances}",),
    ),
)

LAYOUTS = (
    *SUPERPOINT,
    *SUPERGLUE,
    *LIGHTGLUE,
    *FREE_FEATURES,
    *NETVLAD,
    *BACKBONES_WITH_HEADS,
    *GLOBAL_ON_SUPERPOINT,
    *PLACE,
    *OTHERS,
)
