"""Image matchers: LoFTR through kornia, and re-ranking by the images themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from published import CPU
from test_hostile import call
from torch import Tensor

import vpr
from vpr.build import build_reranker
from vpr.config import Method, MethodSettings
from vpr.core import Channels, Image, ImageError, ImageMatches, ImageSet
from vpr.features.prepared import PreparedImages
from vpr.matchers import IMAGE_MATCHERS
from vpr.rerank.images import ImagePair, PreparedImage
from vpr.settings import configured


class Phase:
    """Matches a grid of the first image with the same grid moved by the shift of both images, by phase correlation."""

    channels: Channels = "grey"
    weights = ""

    def preprocess(self, image: Image) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(image))[None]

    def match(self, query: Tensor, candidates: Sequence[Tensor]) -> list[ImageMatches]:
        return [self._match(query[0].numpy(), each[0].numpy()) for each in candidates]

    def _match(self, query: np.ndarray, candidate: np.ndarray) -> ImageMatches:
        if query.shape != candidate.shape:
            return ImageMatches.empty()
        shift, response = cv2.phaseCorrelate(query.astype(np.float64), candidate.astype(np.float64))
        if response < 0.1:
            return ImageMatches.empty()
        y, x = np.mgrid[20:100:10, 20:140:10]
        points = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2)).float()
        moved = points + torch.tensor(shift).float() + 0.01 * torch.randn(points.shape)
        return ImageMatches(points, moved, torch.full((len(points),), float(min(1.0, response))))


class PhaseSettings(MethodSettings):
    """No settings."""

    method: str = "phase"


@pytest.fixture
def phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(IMAGE_MATCHERS, "phase", Method(PhaseSettings, lambda settings, device: Phase()))


ON = ["--set", "rerank.method=images", "--set", "image_matcher.method=phase"]


def test_a_run_is_reranked_by_the_images(phase: None, small_city: tuple[Path, Path], tmp_path: Path) -> None:
    """The thumbnail's shortlist is put right; no local features are extracted."""
    database, queries = small_city
    result = vpr.run(
        database,
        queries,
        tmp_path / "out",
        global_descriptor={"method": "thumbnail"},
        rerank={"method": "images", "k": 8},
        image_matcher={"method": "phase"},
        evaluation={"recall_at": [1]},
    )
    assert result.recall(1) == pytest.approx(0.8)  # all but the query of no place
    evidence = result.predictions.evidence
    assert evidence is not None and (evidence.inliers[:4, 0] > 50).all() and evidence.inliers[4, 0] <= 0
    assert not list((tmp_path / "out" / "features").rglob("local*"))
    assert (tmp_path / "out" / "report.html").exists()


def test_a_given_shortlist_is_reranked_by_the_images(
    phase: None, small_city: tuple[Path, Path], tmp_path: Path
) -> None:
    """Nothing is extracted then, and an image that has changed is compared anew."""
    city = tmp_path / "city"
    shutil.copytree(small_city[0].parent, city)
    folders = ["--database", str(city / "database"), "--queries", str(city / "queries"), "--out", str(tmp_path / "out")]
    names = [sorted(path.name for path in (city / part).glob("*.png")) for part in ("database", "queries")]
    listed = "".join(f"queries/{query} database/{name}\n" for query in names[1] for name in names[0][:8])
    (tmp_path / "pairs.txt").write_text(listed)
    call(["run", *folders, "--shortlist", str(tmp_path / "pairs.txt"), *ON, "--set", "evaluation.recall_at=[1]"])
    first = predicted(tmp_path / "out")
    assert not (tmp_path / "out/features").exists() or not list((tmp_path / "out/features").rglob("local*"))
    write_picture(city / "queries" / names[1][0], np.zeros((120, 160, 3), np.uint8))
    call(["run", *folders, "--shortlist", str(tmp_path / "pairs.txt"), *ON, "--set", "evaluation.recall_at=[1]"])
    second = predicted(tmp_path / "out")
    assert first[0] != second[0] and first[1:] == second[1:]


def predicted(out: Path) -> list[list[tuple[str, int]]]:
    """Per query its candidates and their inliers."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    queries = sorted({line["query"] for line in lines})
    return [[(line["candidate"], line["inliers"]) for line in lines if line["query"] == name] for name in queries]


def test_masks_and_the_limit_of_size_hold_for_dense_matches(
    phase: None, small_city: tuple[Path, Path], tmp_path: Path
) -> None:
    mask = np.full((120, 160, 3), 255, np.uint8)
    mask[:36] = 0  # two rows of the grid, of twelve points each
    write_picture(tmp_path / "mask.png", mask)
    common = {"global_descriptor": {"method": "thumbnail"}, "rerank": {"method": "images", "k": 8}}
    common |= {"image_matcher": {"method": "phase"}, "evaluation": {"recall_at": [1]}}
    images = {"masks": str(tmp_path / "mask.png")}
    whole, part = (
        vpr.run(*small_city, tmp_path / name, **common, images=given).predictions.evidence
        for name, given in (("whole", {}), ("part", images))
    )
    assert whole is not None and part is not None
    assert whole.matches[:4, 0].tolist() == [96] * 4  # the grid
    assert (part.matches[:4, 0] <= 96 - 24).all() and (part.matches[:4, 0] > 40).all()
    method = build_reranker(configured(None, {**common, "images": {"max_megapixels": 0.01}}))
    with pytest.raises(ImageError, match=r"more than 0\.01 megapixels"):
        method.prepare(sorted(small_city[0].iterdir())[0], None)


def test_two_images_are_matched(phase: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = textured(1, 140, 180)
    write_picture(tmp_path / "a.png", view[:120, :160])
    write_picture(tmp_path / "b.png", view[10:130, 12:172])
    call(["match-two", f"{tmp_path}/a.png", f"{tmp_path}/b.png", "--out", f"{tmp_path}/m.png", *ON])
    said = capsys.readouterr().out
    assert "matches   96" in said and (tmp_path / "m.png").exists()
    found = vpr.match(
        tmp_path / "a.png", tmp_path / "b.png", rerank={"method": "images"}, image_matcher={"method": "phase"}
    )
    moved = found.keypoints_b[found.pairs[:, 1]] - found.keypoints_a[found.pairs[:, 0]]
    assert np.allclose(np.median(moved, axis=0), (-12, -10), atol=0.5)


def test_an_image_that_cannot_be_read_has_no_matches(phase: None, tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", textured(1, 120, 160))
    (tmp_path / "b.png").write_bytes(b"nothing")
    images = ImageSet(tmp_path, ("a.png", "b.png"))
    read: list[str] = []

    def prepare(path: object, mask: object) -> int:
        read.append(str(path))
        return int(vpr.match is not None) if "a.png" in str(path) else len(vpr.images.read_image(path, "grey"))

    prepared = PreparedImages(images, prepare, -1)
    assert list(prepared) == [1, -1] and prepared[0:2] == [1, -1] and len(read) == 2
    assert len(PreparedImage(torch.zeros(1, 0, 0))) == 0 and PreparedImage(torch.zeros(1, 3, 5)).image_size == (5, 3)


def test_loftr_is_kornias() -> None:
    """On random weights, which find little; sides are brought to multiples of 8."""
    kornia = pytest.importorskip("kornia.feature")
    torch.manual_seed(0)
    network = kornia.LoFTR(pretrained=None).eval()
    row = IMAGE_MATCHERS["loftr"]
    from vpr.matchers.loftr import LoFTR

    method = LoFTR(network, "", row.settings(match_threshold=0.0), CPU)
    first, second = (method.preprocess(textured(seed, 61, 90)[..., 1]) for seed in (0, 1))
    assert first.shape == (1, 64, 88) and first.dtype == torch.uint8
    (found,) = method.match(first, [second])
    with torch.inference_mode():
        theirs = network({"image0": first[None].float() / 255, "image1": second[None].float() / 255})
    torch.testing.assert_close(found.keypoints0, theirs["keypoints0"])
    torch.testing.assert_close(found.keypoints1, theirs["keypoints1"])


def test_published_weights_are_loaded(tmp_path: Path) -> None:
    kornia = pytest.importorskip("kornia.feature")
    network = kornia.LoFTR(pretrained=None)
    torch.save({"state_dict": {f"matcher.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "loftr.ckpt")
    row = IMAGE_MATCHERS["loftr"]
    method = row.build(row.settings(weights=str(tmp_path / "loftr.ckpt")), CPU)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(method.network.state_dict()[key], value)


def test_keypoints_of_a_pair_are_its_own() -> None:
    found = ImageMatches(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.ones(1))
    pair = ImagePair.__new__(ImagePair)
    object.__setattr__(pair, "found", found)
    seen = PreparedImage(torch.zeros(1, 5, 6))
    assert [each.keypoints.tolist() for each in pair.matched(seen, seen)] == [[[1.0, 2.0]], [[3.0, 4.0]]]
    with pytest.raises(ValueError, match="are not of 2 matches"):
        ImageMatches(torch.zeros(1, 2), torch.zeros(1, 2), torch.ones(2))


@pytest.mark.parametrize("kind", ["homography-folder", "pose-folder"])
def test_image_matchers_are_evaluated(kind: str, phase: None, tmp_path: Path) -> None:
    """On a view moved by (12, 10) pixels, as a plane or by a camera that moved: all matches are correct."""
    view = textured(1, 140, 180)
    for name, image in (("a.png", view[:120, :160]), ("b.png", view[10:130, 12:172])):
        write_picture(tmp_path / "set" / name, image)
    if kind == "homography-folder":
        header = "image_a,image_b," + ",".join(f"h{i}{j}" for i in range(3) for j in range(3))
        (tmp_path / "set" / "homographies.csv").write_text(f"{header}\na.png,b.png,1,0,-12,0,1,-10,0,0,1\n")
    else:
        header = "image," + ",".join(f"p{i}" for i in range(12)) + ",fx,fy,cx,cy"
        poses = [f"{name}.png,1,0,0,{x},0,1,0,{y},0,0,1,0,100,100,80,60" for name, x, y in (("a", 0, 0), ("b", 12, 10))]
        (tmp_path / "set" / "poses.csv").write_text("\n".join([header, *poses]) + "\n")
    out = tmp_path / "out"
    call(["evaluate", kind, f"{tmp_path}/set", "--out", f"{out}", "--estimator", "opencv:3", *ON])
    summary = json.loads((out / "summary.json").read_text())
    row = {key: value for rows in summary["tables"].values() for row in rows for key, value in row.items()}
    assert row["matches"] == row["correct_matches"] == 96 and summary["weights"] == {"image_matcher": ""}
    if kind == "homography-folder":
        assert row["auc_3px"] > 0.9 and "repeatability" not in (out / "rows.csv").read_text()
    assert len(list((out / "examples").iterdir())) == 1
