"""The table of known layouts: how each published network names its tensors.

Names are written as patterns: ``conv{1..4}{a,b}.weight`` stands for eight of them, ``layers.{0..<layers}`` for as many
as the size ``layers`` of the file at hand says, ``{0..<modules/3}`` for every third. Source: the code that builds the
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
    """One row of the table; the first whose telltale names are all in a file says what the file is."""

    name: str
    telltale: tuple[str, ...]  # names that no layout further down has, all of them together
    loads: tuple[str, ...] = ()  # methods of vpr that take such a file
    sizes: Mapping[str, Measure] = field(default_factory=dict)
    keys: tuple[str, ...] = ()  # patterns of all names; () where they are not known
    optional: tuple[str, ...] = ()  # patterns of names that a file may have


def axis(name: str, number: int = 0) -> Measure:
    """The length of a tensor along an axis; 0 if the file has no such tensor."""
    return lambda state: state[name].shape[number] if name in state and number < state[name].dim() else 0


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
        telltale=("conv1a.weight", "convPb.weight", "convDb.weight"),
        sizes={"descriptor": axis("convDb.weight")},
        keys=(f"conv{{1..4}}{{a,b}}.{LINEAR}", f"conv{{P,D}}{{a,b}}.{LINEAR}"),
    ),
    Layout(
        "SuperPoint, open weights",
        loads=("superpoint",),
        telltale=("backbone.0.0.conv.weight", "detector.1.conv.weight", "descriptor.1.conv.weight"),
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
        telltale=("inc.conv.conv.0.weight", "convDb.weight", "bnDb.weight"),
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
        telltale=("gnn.layers.0.attn.merge.weight", "final_proj.weight", "bin_score"),
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
        "IMP or EIMP",
        telltale=("gnn.layers.0.attn.merge.weight", "final_proj.0.weight", "bin_score"),
        sizes={"layers": count("gnn.layers."), "descriptor": axis("final_proj.0.weight")},
    ),
)


def _lightglue(name: str, own: str, cross: str) -> Layout:
    """LightGlue with the attention blocks of its layers under these patterns."""
    final = "log_assignment.0.final_proj.weight"
    return Layout(
        name,
        loads=("lightglue",),
        telltale=(own.replace("{0..<layers}", "0") + ".Wqkv.weight", "posenc.Wr.weight", final),
        sizes={
            "layers": count("log_assignment."),
            "exits": lambda state: count("log_assignment.")(state) - 1,  # layers after which a pair may be done
            "descriptor": lambda state: axis("input_proj.weight", 1)(state) or axis(final, 1)(state),
            "inner width": axis(final, 1),
            "numbers per point": axis("posenc.Wr.weight", 1),
        },
        keys=(
            "posenc.Wr.weight",
            f"{own}.{{Wqkv,out_proj,ffn.0,ffn.1,ffn.3}}.{LINEAR}",
            f"{cross}.{{to_qk,to_v,to_out,ffn.0,ffn.1,ffn.3}}.{LINEAR}",
            f"log_assignment.{{0..<layers}}.{{matchability,final_proj}}.{LINEAR}",
            f"token_confidence.{{0..<exits}}.token.0.{LINEAR}",
        ),
        optional=(f"input_proj.{LINEAR}", "confidence_thresholds"),
    )


LIGHTGLUE = (
    _lightglue("LightGlue", "transformers.{0..<layers}.self_attn", "transformers.{0..<layers}.cross_attn"),
    _lightglue("LightGlue, as first published", "self_attn.{0..<layers}", "cross_attn.{0..<layers}"),
)

CLUSTERS = {"clusters": axis("pool.centroids"), "local descriptor": axis("pool.centroids", 1)}
NETVLAD_KEYS = (f"encoder.{VGG16}.{LINEAR}", "pool.conv.weight", "pool.centroids")
NETVLAD = (
    Layout(
        "NetVLAD with PCA whitening, as of Patch-NetVLAD",
        loads=("netvlad", "patch_netvlad"),
        telltale=("encoder.0.weight", "pool.centroids", "WPCA.0.weight"),
        sizes={**CLUSTERS, "descriptor": axis("WPCA.0.weight")},
        keys=(*NETVLAD_KEYS, f"WPCA.0.{LINEAR}"),
        optional=("pool.conv.bias",),
    ),
    Layout(
        "NetVLAD, not whitened",
        loads=("netvlad",),
        telltale=("encoder.0.weight", "pool.centroids"),
        sizes=CLUSTERS,
        keys=NETVLAD_KEYS,
        optional=("pool.conv.bias",),
    ),
    Layout(
        "NetVLAD, MATLAB network",
        loads=("netvlad_mat",),
        telltale=("layers.0.weights.0", "layers.30.weights.0"),
        sizes={
            "clusters": axis("layers.30.weights.0", 1),
            "local descriptor": axis("layers.30.weights.0"),
            "descriptor": axis("layers.33.weights.1"),
        },
        keys=(f"layers.{VGG16}.weights.{{0,1}}", "layers.{30,33}.weights.{0,1}", "meta.normalization.averageImage"),
    ),
)


@dataclass(frozen=True)
class Trunk:
    """A torchvision network without its classifier, under ``backbone``, its children numbered."""

    name: str
    telltale: str
    sizes: Mapping[str, Measure]
    keys: tuple[str, ...]
    optional: tuple[str, ...] = ()


def _resnet(name: str, convolutions: int, downsampling: str, depths: Mapping[int, int]) -> Trunk:
    """A ResNet whose blocks have that many convolutions; ``depths`` tells the depth from the blocks of stage 3."""
    blocks = {f"blocks of stage {i + 1}": count(f"backbone.{4 + i}.") for i in range(4)}
    each = [f"backbone.{4 + i}.{{0..<blocks of stage {i + 1}}}" for i in range(4)]
    return Trunk(
        name,
        telltale=f"backbone.4.0.conv{convolutions}.weight",
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


TRUNKS = (
    _resnet("ResNet with bottlenecks", 3, "{4,5,6}", {6: 50, 23: 101, 36: 152}),
    _resnet("ResNet", 2, "{5,6}", {2: 18, 6: 34}),
    Trunk("VGG16", "backbone.28.weight", {}, (f"backbone.{VGG16}.{LINEAR}",)),
)
DVGL = "deep visual geo-localization benchmark"
HEADS = (
    Layout(
        "CosPlace or EigenPlaces",
        loads=("cosplace", "eigenplaces"),
        telltale=("aggregation.1.p", "aggregation.3.weight"),
        sizes={"descriptor": axis("aggregation.3.weight")},
        keys=("aggregation.1.p", f"aggregation.3.{LINEAR}"),
    ),
    Layout(f"GeM of the {DVGL}", loads=("gem",), telltale=("aggregation.1.p",), keys=("aggregation.1.p",)),
    Layout(
        f"GeM with a last layer, of the {DVGL}",
        telltale=("aggregation.0.1.p", "aggregation.1.weight"),
        sizes={"descriptor": axis("aggregation.1.weight")},
        keys=("aggregation.0.1.p", f"aggregation.1.{LINEAR}"),
    ),
    Layout(
        f"NetVLAD of the {DVGL}",
        telltale=("aggregation.conv.weight", "aggregation.centroids"),
        sizes={"clusters": axis("aggregation.centroids"), "local descriptor": axis("aggregation.centroids", 1)},
        keys=("aggregation.conv.weight", "aggregation.centroids"),
        optional=("aggregation.conv.bias",),
    ),
)
TRUNKS_WITH_HEADS = tuple(
    Layout(
        f"{head.name}, {trunk.name}",
        loads=head.loads,
        telltale=(*head.telltale, trunk.telltale),
        sizes={**head.sizes, **trunk.sizes},
        keys=(*head.keys, *trunk.keys),
        optional=(*head.optional, *trunk.optional),
    )
    for head in HEADS
    for trunk in TRUNKS
)

SUPERPOINT_TRUNKS = (
    Trunk("SuperPoint's trunk", "encoder.conv1a.weight", {}, (f"encoder.conv{{1..4}}{{a,b}}.{LINEAR}",)),
    Trunk(
        "SuperPoint's trunk, open weights",
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
        f"{name} on {trunk.name}",
        loads=("superpoint_global",),
        telltale=(trunk.telltale, "head.0.conv.weight", f"aggregation.{telltale}"),
        sizes={"convolutions": count("head."), "whitened to": axis("whitening.weight")},
        keys=(
            *trunk.keys,
            "head.{0..<convolutions}.conv.weight",
            f"head.{{0..<convolutions}}.bn.{NORM}",
            *(f"aggregation.{key}" for key in keys),
            f"centre.{NORM}",
        ),
        optional=(f"whitening.{LINEAR}",),
    )
    for name, telltale, keys in AGGREGATIONS
    for trunk in SUPERPOINT_TRUNKS
)

# The blocks of ResNet50 to its third stage.
MIX_BLOCKS = ",".join(f"layer{stage}.{i}." for stage, blocks in ((1, 3), (2, 4), (3, 6)) for i in range(blocks))
OTHERS = (
    Layout("SelaVPR", telltale=("aggregation.1.p", "LocalAdapt.upconv1.weight")),
    Layout("MegaLoc", telltale=("aggregator.agg.dust_bin", "aggregator.linear.weight")),
    Layout("SALAD", telltale=("aggregator.dust_bin", "aggregator.score.0.weight")),
    Layout(
        "MixVPR",
        loads=("mixvpr",),
        telltale=("aggregator.channel_proj.weight", "aggregator.row_proj.weight", "backbone.model.conv1.weight"),
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
    Layout("Bag of Queries", telltale=("aggregator.proj_c.weight", "aggregator.norm_input.weight")),
    Layout(
        "VLAD fitted by `vpr fit`",
        loads=("vlad",),
        telltale=("centroids",),
        sizes={"clusters": axis("centroids"), "local descriptor": axis("centroids", 1)},
        keys=("centroids",),
        optional=("whitening.{weight,bias,variances}",),
    ),
)

LAYOUTS = (*SUPERPOINT, *SUPERGLUE, *LIGHTGLUE, *NETVLAD, *TRUNKS_WITH_HEADS, *GLOBAL_ON_SUPERPOINT, *OTHERS)
