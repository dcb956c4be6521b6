"""SuperPoint's network in its published layouts, to be trained and to be loaded into.

DeTone, Malisiewicz and Rabinovich, CVPR workshops 2018, arXiv:1712.07629. ``vpr.local_features.superpoint_fast``
computes the same, faster, from the same weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_weights

from vpr.weights import WeightsError

Layout = Literal["v1", "open"]

CELL = 8  # pixels along a side of a cell: three poolings by 2
LAST_LAYERS = {  # whose biases are as long as the heads are wide inside, and as the descriptors are long
    "v1": ("convPa.bias", "convDb.bias"),
    "open": ("detector.0.conv.bias", "descriptor.1.conv.bias"),
}
HEADS = ("convP", "convD", "detector", "descriptor")  # what the names of their layers begin with
PUBLISHED_SIZES = ((64, 64, 128, 128), 256, 256)  # widths, head and descriptors of the first published weights
CLASSES = CELL * CELL + 1  # the pixels of a cell, and "no keypoint here"


@dataclass(frozen=True, eq=False)
class Step:
    """One convolution, and what follows it in this order: ReLU, BatchNorm, pooling by 2."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d | None
    relu: bool
    pool: bool

    def __call__(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.relu:
            x = x.relu()
        if self.norm is not None:
            x = self.norm(x)
        return functional.max_pool2d(x, 2) if self.pool else x


class Block(nn.Module):
    """Convolution and BatchNorm under the names of the open weights."""

    def __init__(self, before: int, after: int, size: int) -> None:
        super().__init__()
        self.conv = _conv(before, after, size)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)


class SuperPointNetwork(nn.Module):
    """Keypoints and descriptors of grey images with values in [0, 1].

    ``layout`` "v1" has the names of the first published weights and no BatchNorm; "open" has those of
    rpautrat/SuperPoint and a BatchNorm after each ReLU. ``widths`` are the channels of the four blocks of the backbone,
    ``head`` those inside the two heads, ``dim`` the length of a descriptor.
    """

    def __init__(
        self, layout: Layout = "v1", widths: Sequence[int] = (64, 64, 128, 128), head: int = 256, dim: int = 256
    ) -> None:
        super().__init__()
        self.build(layout, widths, head, dim)

    def build(self, layout: Layout, widths: Sequence[int], head: int, dim: int) -> None:
        """Make the layers anew."""
        self._modules.clear()
        self.layout, self.dim = layout, dim
        self.sizes = (tuple(widths), head, dim)
        before = [1, *widths[:-1]]
        if layout == "open":
            pairs = zip(before, widths, strict=True)
            self.backbone = nn.Sequential(*(nn.Sequential(Block(i, o, 3), Block(o, o, 3)) for i, o in pairs))
            self.detector = nn.Sequential(Block(widths[-1], head, 3), Block(head, CLASSES, 1))
            self.descriptor = nn.Sequential(Block(widths[-1], head, 3), Block(head, dim, 1))
            return
        for i, (inputs, outputs) in enumerate(zip(before, widths, strict=True), 1):
            self.add_module(f"conv{i}a", _conv(inputs, outputs, 3))
            self.add_module(f"conv{i}b", _conv(outputs, outputs, 3))
        for letter, outputs in (("P", CLASSES), ("D", dim)):
            self.add_module(f"conv{letter}a", _conv(widths[-1], head, 3))
            self.add_module(f"conv{letter}b", _conv(head, outputs, 1))

    def convert_state_dict(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bring weights of a published layout to this network's names, and take their layout and sizes.

        The layout of pytorch-superpoint (SuperPointNet_gauss2) becomes "v1", with its BatchNorms folded.
        """
        if "inc.conv.conv.0.weight" in state:
            state = _from_gauss2(state)
        layout: Layout = "open" if "backbone.0.0.conv.weight" in state else "v1"
        backbone = r"backbone\.\d\.1\.conv\.bias" if layout == "open" else r"conv\db\.bias"
        widths = [len(state[key]) for key in sorted(state) if re.fullmatch(backbone, key)]
        head, last = LAST_LAYERS[layout]
        if len(widths) == 4 and head in state and last in state:  # else load_strictly will say what is missing
            self.build(layout, widths, len(state[head]), len(state[last]))
        return state

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, 65, h, w) and descriptors (B, dim, h, w), not normalised, one column per cell of 8 x 8 pixels.

        The images are (B, 1, H, W); pixels beyond a multiple of 8 belong to no cell.
        """
        return self.heads(self.maps(images))

    def heads(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What both heads make of the backbone's maps (B, C, h, w); see forward."""
        logits = coarse = maps
        for step in self.head("detector"):
            logits = step(logits)
        for step in self.head("descriptor"):
            coarse = step(coarse)
        return logits, coarse

    def maps(self, images: Tensor) -> Tensor:
        """Output of the backbone, the input of both heads, (B, C, h, w)."""
        x = images
        for step in self.backbone_steps():
            x = step(x)
        return x

    def drop_heads(self) -> None:
        """Keep the backbone alone."""
        for name in [name for name in self._modules if name.startswith(HEADS)]:
            del self._modules[name]

    def backbone_steps(self) -> list[Step]:
        """The layers that both heads share."""
        if self.layout == "open":
            layers = _blocks(self.backbone)
        else:
            layers = [(self._conv(f"{i}{letter}"), None) for i in range(1, 5) for letter in "ab"]
        return [Step(conv, norm, relu=True, pool=i in (1, 3, 5)) for i, (conv, norm) in enumerate(layers)]

    def head(self, name: Literal["detector", "descriptor"]) -> list[Step]:
        """The layers of one head."""
        if self.layout == "open":
            layers = _blocks(self.get_submodule(name))
        else:
            letter = {"detector": "P", "descriptor": "D"}[name]
            layers = [(self._conv(f"{letter}{place}"), None) for place in "ab"]
        return [Step(conv, norm, relu=i == 0, pool=False) for i, (conv, norm) in enumerate(layers)]

    def _conv(self, name: str) -> nn.Conv2d:
        conv = self.get_submodule(f"conv{name}")
        assert isinstance(conv, nn.Conv2d)
        return conv


def _blocks(module: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d | None]]:
    return [(block.conv, block.bn) for block in module.modules() if isinstance(block, Block)]


def _conv(before: int, after: int, size: int) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, padding=size // 2)


def _from_gauss2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights whose every convolution is followed by a BatchNorm, and only then by the ReLU, in the names of "v1"."""
    names = {f"conv{head}": (f"conv{head}", f"bn{head}") for head in ("Pa", "Pb", "Da", "Db")}
    for i, block in enumerate(("inc.conv", "down1.mpconv.1", "down2.mpconv.1", "down3.mpconv.1"), 1):
        for letter, place in (("a", 0), ("b", 3)):
            names[f"conv{i}{letter}"] = (f"{block}.conv.{place}", f"{block}.conv.{place + 1}")
    rest = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    folded = {}
    try:
        for ours, (conv, norm) in names.items():
            weight, bias = (rest.pop(f"{conv}.{part}").double() for part in ("weight", "bias"))
            gain, shift, mean, variance = (
                rest.pop(f"{norm}.{part}").double() for part in ("weight", "bias", "running_mean", "running_var")
            )
            fused = fuse_conv_bn_weights(weight, bias, mean, variance, 1e-5, gain, shift)
            folded[f"{ours}.weight"], folded[f"{ours}.bias"] = (each.detach().float() for each in fused)
    except KeyError as error:
        raise WeightsError(f"weights in the layout of pytorch-superpoint, but without {error}") from None
    return folded | rest  # load_strictly refuses what is left
