"""Models from torch.hub, with a repository on disk in the place of GitHub."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import textured

from vpr.config import load
from vpr.core import ConfigError, DataError
from vpr.global_descriptors import hub
from vpr.global_descriptors.hub import HUB_MODELS, HubModel
from vpr.settings import Settings
from vpr.weights import WeightsError

CPU = torch.device("cpu")

REPOSITORY = '''
dependencies = ["torch"]
import torch


class Model(torch.nn.Module):
    """Mean colours, repeated to the length of a descriptor; like BoQ it adds something to its result if asked."""

    def __init__(self, dim, adds=False, multiple=1):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.arange(1.0, dim + 1))
        self.adds, self.multiple = adds, multiple

    def forward(self, x):
        assert not self.training and x.dtype == torch.float32
        assert x.shape[2] % self.multiple == x.shape[3] % self.multiple == 0
        vectors = x.mean((1, 2, 3))[:, None] + self.scale
        return (vectors, [x]) if self.adds else vectors


def get_trained_model(backbone=None, fc_output_dim=8448):
    print("Returning a model")
    return Model(fc_output_dim, multiple=14 if backbone is None else 1)

def dinov2_salad():
    return Model(8448, multiple=14)

def get_trained_boq(backbone_name, output_dim):
    return Model(output_dim, adds=True, multiple=14 if backbone_name == "dinov2" else 1)

def vgg16_netvlad(pretrained):
    return Model(4096 if pretrained else 1)

def broken():
    raise OSError("no route to host")
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "hubconf.py").write_text(REPOSITORY)
    return tmp_path / "repository"


def built(repository: Path, model: str, **settings) -> hub.Hub:
    return hub.build(hub.Settings(model=model, folder=repository, trust_code=True, **settings), CPU)


@pytest.mark.parametrize("model", sorted(HUB_MODELS))
def test_every_row_fits_the_contract(repository: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Entry, arguments, size of the pictures, unpacking and length; and a batch gives what each image gives alone."""
    descriptor = built(repository, model)
    assert capsys.readouterr().out == ""
    images = [descriptor.preprocess(textured(seed, 90 + 37 * seed, 120)) for seed in range(3)]
    together = descriptor.describe(images)
    assert together.shape == (3, descriptor.dim) and descriptor.dim == HUB_MODELS[model].dim
    assert torch.allclose(together.norm(dim=1), torch.ones(3), atol=1e-5)
    for image, row in zip(images, together, strict=True):
        assert torch.allclose(descriptor.describe([image])[0], row, atol=1e-6)


@pytest.mark.parametrize("model", sorted(HUB_MODELS))
def test_every_row_says_how_large_images_are_and_under_which_licence(model: str) -> None:
    row = HUB_MODELS[model]
    assert row.licence and row.repository.count("/") == 1
    assert (row.size is None) == (row.shortest_side > 0)
    assert row.size is None or all(side % row.multiple_of == 0 for side in row.size)


@pytest.mark.parametrize(
    ("model", "picture", "seen"),
    [
        ("megaloc", (480, 640), (322, 322)),
        ("boq_resnet50", (480, 640), (384, 384)),
        ("sfrs", (600, 800), (480, 640)),
        ("cosplace", (300, 400), (300, 400)),
    ],
)
def test_sizes(repository: Path, model: str, picture: tuple[int, int], seen: tuple[int, int]) -> None:
    image = built(repository, model).preprocess(textured(0, *picture))
    assert tuple(image.shape) == (3, *seen) and image.dtype == torch.uint8


def test_another_size_on_request(repository: Path) -> None:
    descriptor = built(repository, "salad", width=56, height=28)
    assert tuple(descriptor.preprocess(textured(0)).shape) == (3, 28, 56)


def test_colours_of_sfrs_are_those_of_caffe(repository: Path) -> None:
    level = HUB_MODELS["sfrs"].levels.normalise(torch.full((1, 3, 1, 1), 255, dtype=torch.uint8))
    assert torch.allclose(level.flatten(), torch.tensor([131.32, 138.221, 151.061]), atol=1e-3)


def test_code_is_run_only_when_trusted(repository: Path) -> None:
    with pytest.raises(ConfigError, match=r"runs code from https://github.com/serizba/salad \(licence: GPL-3.0\)"):
        hub.build(hub.Settings(model="salad"), CPU)
    with pytest.raises(ConfigError, match="trust_code = true"):
        hub.build(hub.Settings(model="salad", folder=repository), CPU)


def test_weights_are_told_apart_by_what_was_loaded(repository: Path) -> None:
    one = built(repository, "salad").weights
    assert one == built(repository, "megaloc").weights  # both are the same fake
    (repository / "hubconf.py").write_text(REPOSITORY.replace("torch.arange(1.0, dim + 1)", "torch.ones(dim)"))
    assert len(one) == 64 and one != built(repository, "salad").weights


def test_what_fails_is_said(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HUB_MODELS, "other", HubModel("some/one", "", "broken", 3, "MIT", size=(32, 32)))
    with pytest.raises(WeightsError, match=r"repository: broken failed: OSError: no route to host; .*folder"):
        built(repository, "other")
    monkeypatch.setitem(HUB_MODELS, "other", HubModel("some/one", "", "dinov2_salad", 3, "MIT", size=(28, 28)))
    descriptor = built(repository, "other")
    with pytest.raises(DataError, match=r"some/one: made descriptors of shape \(1, 8448\), expected \(1, 3\)"):
        descriptor.describe([descriptor.preprocess(textured(0))])


@pytest.mark.parametrize("from_github", [True, False])
def test_where_the_code_comes_from(repository: Path, monkeypatch: pytest.MonkeyPatch, from_github: bool) -> None:
    """A commit that was read is asked for by its name, and only then does torch's check of branch tips stand aside."""
    asked = []
    monkeypatch.setattr(torch.hub, "load", lambda *args, **kwargs: asked.append((args, kwargs)) or torch.nn.Identity())
    for model in ("salad", "sfrs"):
        hub.build(hub.Settings(model=model, folder=None if from_github else repository, trust_code=True), CPU)
    places = [args[0] for args, _ in asked]
    if from_github:
        assert places == [f"serizba/salad:{HUB_MODELS['salad'].commit}", "yxgeee/OpenIBL"]
        assert [kwargs["skip_validation"] for _, kwargs in asked] == [True, False]
    else:
        assert places == [str(repository)] * 2 and all(kwargs["source"] == "local" for _, kwargs in asked)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model=mega", "unknown hub model 'mega'; known: boq_dinov2"),
        ("width=322", "give width and height, or neither"),
        ("trust=true", "unknown key 'trust'"),
    ],
)
def test_senseless_settings_are_refused(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(Settings, None, ["global_descriptor.method=hub", f"global_descriptor.{override}"])


def test_sides_that_the_network_cannot_take_are_refused() -> None:
    settings = ["global_descriptor.method=hub", "global_descriptor.width=320", "global_descriptor.height=320"]
    with pytest.raises(ConfigError, match="multiples of 14 for megaloc"):
        load(Settings, None, settings)
