"""Keypoints dropped by the class of what they lie on: by a segmentation head, or by masks in a folder."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from torch import Tensor

import vpr
from vpr.build import build, build_local, build_pair_methods
from vpr.categories import CS34_ID, IGNORED, STREET
from vpr.config import fingerprint
from vpr.core import ConfigError, DataError, ImageSet, LocalFeatures
from vpr.datasets.labelled import read_labelled
from vpr.demo_city.labelled import write_labelled
from vpr.evaluation.segmentation import Confusion, confusion
from vpr.features.feature_set import FeatureFolders
from vpr.features.masks import read_masks
from vpr.images import as_image, read_image
from vpr.local_features.dropping import DroppingExtractor, Selection, at_keypoints
from vpr.local_features.rootsift import Settings as RootSiftSettings
from vpr.local_features.segmentation import Segmenter, about_classes, load_segmenter
from vpr.local_features.segmentation_network import SegmentationHead
from vpr.local_features.superpoint_fast import FastBackbone
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.maps.engine import build_engine
from vpr.settings import Settings, configured
from vpr.training.export import save_weights
from vpr.weights import Record, TrainedFor, WeightsError

CPU = torch.device("cpu")


def points(count: int = 4) -> LocalFeatures:
    """Keypoints along the diagonal of an image of 8 x 8 pixels, the strongest first."""
    places = torch.arange(float(count))[:, None].repeat(1, 2) * 2
    return LocalFeatures(places, 1 - torch.arange(float(count)) / 8, torch.eye(count), (8, 8))


def settings_of(drop: list[str], where: str, **values: object) -> Settings:
    chosen = {"method": "rootsift", "drop": drop, "segmentation": where, **values}
    sections = {"local_features": chosen, "global_descriptor": {"method": "thumbnail"}, "rerank": {"k": 2}}
    return configured(None, sections)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head that calls everything sky."""
    path = tmp_path_factory.mktemp("head") / "sky.safetensors"
    network = SegmentationHead(128, 7, 16)
    with torch.no_grad():
        network.last.weight.zero_()
        network.last.bias.copy_(10 * torch.eye(7)[STREET.ids_of(["sky"])[0]])
    record = Record(loads=("segmentation",), trained_for=TrainedFor(method="superpoint", weights="vpr-superpoint"))
    save_weights(path, network, record=record, more=about_classes(STREET))
    return path


def test_classes_are_read_at_the_keypoints_of_any_size() -> None:
    classes = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8)
    places = torch.tensor([[0.0, 0.0], [3.4, 0.0], [3.6, 0.0], [7.0, 7.0], [9.0, -2.0]])
    features = LocalFeatures(places, torch.ones(5), torch.eye(5), (8, 8))
    assert at_keypoints(features, classes).tolist() == [1, 1, 2, 4, 2]


def test_dropped_keypoints_go_and_the_others_fill_their_places() -> None:
    classes = torch.zeros(8, 8, dtype=torch.uint8)
    classes[:3, :3] = 5
    assert Selection([5], 0.0, 2).of(points(), classes).keypoints[:, 0].tolist() == [4, 6]
    assert Selection([5], 0.0, 3).of(points(), None).keypoints[:, 0].tolist() == [0, 2, 4]
    assert len(Selection([0, 5], 0.0, 3).of(points(), classes)) == 0
    assert len(Selection([0], 0.0, 3).of(LocalFeatures.empty(4), classes)) == 0


def test_weaker_keypoints_come_last() -> None:
    classes = torch.zeros(8, 8, dtype=torch.uint8)
    classes[:3, :3] = 5
    found = Selection([5], 0.5, 3).of(points(), classes)
    assert found.keypoints[:, 0].tolist() == [4, 6, 0]
    assert found.scores.tolist() == [0.75, 0.625, 0.5]
    assert (found.descriptors == torch.eye(4)[[2, 3, 0]]).all()


def test_settings_that_drop_nothing_have_the_fingerprint_of_before() -> None:
    plain = RootSiftSettings()
    without = {key: value for key, value in plain.model_dump(mode="json").items()
               if key not in ("drop", "drop_confidence", "drop_weight", "segmentation")}  # fmt: skip
    assert fingerprint({"local": plain}) == fingerprint({"local": without})
    assert fingerprint({"local": RootSiftSettings(drop=("sky",))}) != fingerprint({"local": plain})


class HalfSky(Segmenter):
    def __init__(self) -> None:
        self.categories, self.weights = STREET, "half"

    def classes(self, image: Tensor, confidence: float = 0.0) -> Tensor:
        return torch.tensor([[5], [1]], dtype=torch.uint8)  # sky over building


@pytest.mark.parametrize("method", ["rootsift", "orb", "superpoint"])
def test_an_extractor_without_the_sky(method: str) -> None:
    chosen = configured(None, {"local_features": {"method": method, "max_keypoints": 200}})
    twice = configured(None, {"local_features": {"method": method, "max_keypoints": 400}})
    extractor = build_local(twice)
    dropping = DroppingExtractor(extractor, HalfSky(), Selection([5], 0.0, 200))
    plain = build_local(chosen)
    image = as_image(textured(3, 240, 320), plain.channels)
    found = dropping.extract([dropping.preprocess(image)])[0]
    assert 0 < len(found) <= 200
    assert (found.keypoints[:, 1] >= 119.5).all()
    assert len(found) > (plain.extract([plain.preprocess(image)])[0].keypoints[:, 1] >= 119.5).sum() / 2
    assert dropping.weights != extractor.weights


def test_a_head_from_a_file(head: Path) -> None:
    segmenter = load_segmenter(str(head), CPU)
    assert segmenter.categories == STREET
    for shape in ((1, 100, 333), (3, 60, 20), (1, 5, 5)):
        classes = segmenter.classes(torch.zeros(shape, dtype=torch.uint8))
        assert max(classes.shape) <= 320 and (classes == 5).all()
    bright = torch.rand(1, 64, 64)
    assert torch.equal(segmenter.classes(bright), segmenter.classes((bright * 255).round().to(torch.uint8)))
    everything = vpr.load_extractor("rootsift", drop=["sky"], segmentation=str(head))
    assert len(everything(textured(1, 240, 320))) == 0
    kept = vpr.load_extractor("rootsift", drop=["person"], segmentation=str(head))
    plain = vpr.load_extractor("rootsift")
    assert torch.equal(kept(textured(1, 240, 320)).keypoints, plain(textured(1, 240, 320)).keypoints)


def test_an_unsure_head_drops_nothing(head: Path, tmp_path: Path) -> None:
    network = load_segmenter(str(head), CPU).head
    with torch.no_grad():
        network.last.bias *= (
            np.log(6 * 0.75 / 0.25) / 10
        )  # the sky has a probability of 0.75, the six others share the rest
    about = about_classes(STREET)
    record = Record(loads=("segmentation",), trained_for=TrainedFor(method="superpoint", weights="vpr-superpoint"))
    save_weights(tmp_path / "unsure.safetensors", network, record=record, more=about)
    weights = str(tmp_path / "unsure.safetensors")
    segmenter, image = load_segmenter(weights, CPU), torch.zeros(1, 40, 64)
    assert (segmenter.classes(image, 0.74) == STREET.ids_of(["sky"])[0]).all()
    assert (segmenter.classes(image, 0.76) == IGNORED).all()
    picture, plain = textured(1, 240, 320), vpr.load_extractor("rootsift")
    unsure = vpr.load_extractor("rootsift", drop=["sky"], segmentation=weights)  # wants 0.8
    assert torch.equal(unsure(picture).keypoints, plain(picture).keypoints)
    sure = vpr.load_extractor("rootsift", drop=["sky"], segmentation=weights, drop_confidence=0.5)
    assert len(sure(picture)) == 0


def test_a_map_and_two_images_drop_by_a_head(head: Path, tmp_path: Path) -> None:
    settings = settings_of(["sky"], str(head))
    methods = build_pair_methods(settings)
    write_picture(tmp_path / "a.png", textured(1, 120, 160))
    assert len(methods.compared(tmp_path / "a.png")) == 0
    assert build_engine(settings).single(tmp_path / "a.png").local.keypoints.shape == (0, 2)


def test_the_head_that_comes_with_vpr_knows_a_rendered_street(tmp_path: Path) -> None:
    write_labelled(tmp_path, "kitti", cities=1, held_out=0, images=1, seed=77, size=(216, 160))
    found = read_labelled("kitti", tmp_path, "train")
    extractor = build_local(settings_of(["sky"], ""))
    assert isinstance(extractor, DroppingExtractor)
    total = Confusion.none(len(STREET))
    for row in range(len(found)):
        classes = extractor.segmenter.of_image(read_image(found.image(row), "rgb"))
        total += confusion(STREET.of(cv2.resize(found.mask(row), classes.shape[::-1], interpolation=0)), classes, 7)
    assert total.pixel_accuracy > 0.7


def test_weights_that_are_no_head_are_refused(head: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no weights of a segmentation head"):
        build_local(settings_of(["sky"], "vpr-superpoint"))
    with pytest.raises(ConfigError, match=r"unknown class 'car' of street; known: road"):
        build_local(settings_of(["car"], str(head)))
    with pytest.raises(WeightsError):
        build_local(settings_of(["sky"], str(tmp_path / "absent.safetensors")))
    other = Record(loads=("segmentation",),
                   trained_for=TrainedFor(method="superpoint", weights="vpr-superpoint", sha256="0" * 64))  # fmt: skip
    save_weights(tmp_path / "other.safetensors", SegmentationHead(128, 7, 16), record=other, more=about_classes(STREET))
    with pytest.raises(WeightsError, match="another sha256"):
        build_local(settings_of(["sky"], str(tmp_path / "other.safetensors")))
    wrong = Record(loads=("segmentation",), trained_for=TrainedFor(method="superpoint", weights="vpr-superpoint"))
    save_weights(tmp_path / "wrong.safetensors", SegmentationHead(64, 7, 16), record=wrong, more=about_classes(STREET))
    with pytest.raises(WeightsError, match="a head of 64 channels"):
        build_local(settings_of(["sky"], str(tmp_path / "wrong.safetensors")))


@pytest.fixture
def labelled(tmp_path: Path) -> ImageSet:
    """Three images; two have masks with sky in their upper half."""
    mask = np.full((24, 32), CS34_ID["building"], np.uint8)
    mask[:12] = CS34_ID["sky"]
    for number in range(3):
        write_picture(tmp_path / "images" / f"{number}.png", textured(number, 240, 320))
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "0.png"), mask)
    cv2.imwrite(str(tmp_path / "masks" / "1.png.png"), mask)
    return ImageSet(tmp_path / "images", ("0.png", "1.png", "2.png"))


def test_masks_in_a_folder(labelled: ImageSet, tmp_path: Path) -> None:
    settings = settings_of(["sky"], str(tmp_path / "masks"), max_keypoints=150)
    masks = read_masks("", labelled, settings.local_features)
    extractor = build(settings).extractor
    found = extractor.extract(labelled, FeatureFolders.under(tmp_path / "features"), masks=masks).local_store
    plain = build(configured(None, {"local_features": {"method": "rootsift", "max_keypoints": 150}})).extractor
    expected = plain.extract(labelled, FeatureFolders.under(tmp_path / "plain")).local_store
    assert found is not None and expected is not None
    assert all((found[row].keypoints[:, 1] >= 119.5).all() and len(found[row]) > 50 for row in (0, 1))
    alike = {*map(tuple, found[2].keypoints.tolist())} & {*map(tuple, expected[2].keypoints.tolist())}
    assert len(found[2]) == 150 and len(alike) > 100  # without a mask the whole image counts
    cv2.imwrite(str(tmp_path / "masks" / "2.png"), np.full((4, 4), CS34_ID["sky"], np.uint8))
    again = extractor.extract(labelled, FeatureFolders.under(tmp_path / "features"), masks=masks)
    assert again.work is not None and again.work.computed == 1
    assert again.local_store is not None and len(again.local_store[2]) == 0


def test_where_masks_do_not_apply_is_said(labelled: ImageSet, tmp_path: Path) -> None:
    settings = settings_of(["sky"], str(tmp_path / "masks"))
    with pytest.raises(ConfigError, match="a map takes none"):
        build_engine(settings)
    with pytest.raises(ConfigError, match="single images takes none"):
        build_pair_methods(settings)
    with pytest.raises(ConfigError, match="takes none"):
        vpr.load_extractor("rootsift", drop=["sky"], segmentation=str(tmp_path / "masks"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no mask of any of 3 images"):
        read_masks("", labelled, settings_of(["sky"], str(tmp_path / "empty")).local_features)
    with pytest.raises(ConfigError, match="unknown class 'tree'"):
        read_masks("", labelled, settings_of(["tree"], str(tmp_path / "masks")).local_features)
    without = configured(None, {"local_features": {"drop": ["sky"]}, "global_descriptor": {"method": "thumbnail"},
                                "rerank": {"k": 0}})  # fmt: skip
    with pytest.raises(ConfigError, match="extract no local features"):
        build(without)
    with pytest.raises(ConfigError, match="the features are given"):
        build(settings, detects=False)


def test_the_head_is_the_same_alone_and_in_a_batch() -> None:
    torch.manual_seed(0)
    network, head = SuperPointNetwork(), SegmentationHead(128, 7, 16).eval()
    segmenter = Segmenter(head, FastBackbone(network, CPU), STREET, weights="", longest_side=96)
    maps = torch.randn(3, 128, 6, 9)
    with torch.inference_mode():
        together, alone = head(maps), torch.cat([head(each[None]) for each in maps])
    assert torch.allclose(together, alone, atol=1e-4)
    assert segmenter.classes(torch.rand(1, 72, 96)).shape == (72, 96)
