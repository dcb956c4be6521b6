"""Codes of descriptors, boxes around places, probabilities."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import features

from vpr.config import config_path, load
from vpr.core import ConfigError, DataError, LocalFeatures
from vpr.datasets.placed import Position, haversine_m
from vpr.maps import shipped
from vpr.maps.answers import Candidate, fused
from vpr.maps.local_codec import PROFILES, LocalCodec, Profile, fit_pca, share_bits
from vpr.maps.prior import boxes
from vpr.maps.probability import Probability, fit_probability
from vpr.maps.sequence import SequenceFilter
from vpr.maps.vectors import (
    VectorCodec,
    closeness,
    codebook_of,
    codes_of,
    faiss,
    has_sketches,
    read_vectors,
    search_vectors,
    train_codebook,
    write_vectors,
)
from vpr.settings import Settings


def unit_rows(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def low_rank(count: int, seed: int) -> LocalFeatures:
    """Descriptors that lie near a few axes, as those of networks do."""
    axes = np.random.default_rng(0).standard_normal((12, 64)).astype(np.float32)
    made = features(seed, count, 64)
    rows = unit_rows(count, 12, seed) @ axes + 0.1 * made.descriptors.numpy()
    descriptors = torch.nn.functional.normalize(torch.from_numpy(rows.astype(np.float32)), dim=1)
    return LocalFeatures(made.keypoints, made.scores, descriptors, (640, 480))


def test_profiles_keep_their_promise() -> None:
    sizes = {name: each.keypoints * each.bytes_per_keypoint for name, each in PROFILES.items()}
    assert sizes["default"] <= 64 * 1024 and sizes["compact"] <= 20 * 1024
    assert max(each.bytes_per_keypoint for each in PROFILES.values()) <= 64


def test_local_features_survive_their_codes(tmp_path: Path) -> None:
    codec = fit_pca([low_rank(300, seed) for seed in range(4)]).codec(Profile(200, 200))
    codec.save(tmp_path / "codec.safetensors")
    codec = LocalCodec.load(tmp_path / "codec.safetensors")
    made = low_rank(300, 9)
    codes = codec.encode(made)
    found = codec.decode(codes, made.image_size)
    strongest = np.sort(np.argsort(-made.scores.numpy(), kind="stable")[:200])
    assert codes.shape == (200, 5 + 25) and codes.dtype == np.uint8
    assert found.keypoints.numpy() == pytest.approx(made.keypoints.numpy()[strongest].clip(max=639.5), abs=0.01)
    assert found.scores.numpy() == pytest.approx(made.scores.numpy()[strongest], abs=0.002)
    similarity = (found.descriptors * made.descriptors[strongest]).sum(1)
    assert similarity.min() > 0.98 and found.descriptors.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)


def test_no_keypoints_have_no_codes() -> None:
    codec = fit_pca([low_rank(100, 1)]).codec(Profile(50, 80))
    codes = codec.encode(LocalFeatures.empty(64, (10, 10)))
    assert codes.shape == (0, 15) and len(codec.decode(codes, (10, 10))) == 0
    with pytest.raises(DataError, match="no image has a single local feature"):
        fit_pca([LocalFeatures.empty(64)])


def test_bits_go_where_the_error_is_largest() -> None:
    bits = share_bits(np.array([8.0, 4.0, 1.0, 0.0], np.float32), 8)
    assert bits.sum() == 8 and bits[0] > bits[1] > bits[2] >= bits[3] == 0
    assert share_bits(np.array([1.0, 1e-3], np.float32), 16).tolist() == [8, 8]


@pytest.mark.parametrize(("dim", "bits", "worst"), [(64, 8, 0.999), (512, 8, 0.999), (1024, 4, 0.96)])
def test_vectors_survive_their_codes(dim: int, bits: int, worst: float) -> None:
    codec, rows = VectorCodec(dim), unit_rows(50, dim)
    codes = codec.encode(rows)
    assert codec.bits == bits and codes.shape == (50, dim * bits // 8) and codes.shape[1] <= 512
    decoded = codec.decode(codes)
    assert ((decoded * rows).sum(1) / np.linalg.norm(decoded, axis=1)).min() > worst
    assert np.array_equal(codec.encode(decoded), codes)
    with pytest.raises(ConfigError, match="at most 1024"):
        VectorCodec(1025)


def test_sketches_leave_only_some_rows_to_compare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("vpr.maps.vectors.SKETCHED_ROWS", 100)
    codec, rows = VectorCodec(32), unit_rows(3000, 32)
    codes = codec.encode(rows)
    write_vectors(tmp_path / "v.faiss", codec, codes, train_codebook(codec, [codes]))
    index = read_vectors(tmp_path / "v.faiss")
    assert has_sketches(index) and np.array_equal(codebook_of(index), train_codebook(codec, [codes]))
    few = many = 0.0
    for query in unit_rows(20, 32, seed=9):
        exact = search_vectors(index, query, 10, refined=0)
        found = search_vectors(index, query, 10, refined=300)
        few += len(set(search_vectors(index, query, 10, refined=10)[1]) & set(exact[1])) / 10
        many += len(set(found[1]) & set(exact[1])) / 10
        both = np.isin(found[1], exact[1])
        places = [exact[1].tolist().index(row) for row in found[1][both]]
        assert np.allclose(found[0][both], exact[0][places], atol=1e-5)  # similarities are those of the descriptors
        mask = np.ones(3000, bool)
        mask[exact[1][:3]] = False
        assert search_vectors(index, query, 7, mask, refined=2500)[1].tolist() == exact[1][3:].tolist()
        mask[100:160] = False
        found = search_vectors(index, query, 7, mask, refined=20)[1]  # two for each that may be among the best
        assert len(found) == 7 and mask[found].all()
    assert many / 20 > 0.95 > few / 20
    assert 0.8 < closeness(codec, codes, codebook_of(index)) < 1
    assert closeness(codec, codes[:, ::-1], codebook_of(index)) < closeness(codec, codes, codebook_of(index))


def test_inverted_lists_of_former_maps_are_read(tmp_path: Path) -> None:
    codec, rows = VectorCodec(32), unit_rows(300, 32)
    codes = codec.encode(rows)
    coarse = faiss.IndexFlatIP(32)
    coarse.add(rows[:4])
    kind = codec.empty().sq.qtype
    lists = faiss.IndexIVFScalarQuantizer(coarse, 32, 4, kind, faiss.METRIC_INNER_PRODUCT, False)
    codec._bound(lists)
    lists.add(codec.decode(codes))
    faiss.write_index(lists, str(tmp_path / "v.faiss"))
    index = read_vectors(tmp_path / "v.faiss")
    assert np.array_equal(codes_of(index), codes)
    plain = np.argsort(-(codec.decode(codes) @ rows[7]), kind="stable")[:5]
    assert search_vectors(index, rows[7], 5)[1].tolist() == plain.tolist()


@pytest.mark.parametrize("sketched", [False, True])
def test_a_file_of_vectors_gives_its_codes_and_rows_back(
    tmp_path: Path, sketched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vpr.maps.vectors.SKETCHED_ROWS", 100)
    codec, rows = VectorCodec(32), unit_rows(300, 32)
    codes = codec.encode(rows)
    codebook = train_codebook(codec, [codes[:100], codes[100:]]) if sketched else None
    write_vectors(tmp_path / "v.faiss", codec, codes, codebook)
    index = read_vectors(tmp_path / "v.faiss")
    assert np.array_equal(codes_of(index), codes)
    plain = np.argsort(-(codec.decode(codes) @ rows[7]), kind="stable")[:5]
    assert search_vectors(index, rows[7], 5)[1].tolist() == plain.tolist()
    mask = np.zeros(300, bool)
    mask[[3, 5]] = True
    assert set(search_vectors(index, rows[7], 5, mask)[1].tolist()) - {-1} == {3, 5}
    (tmp_path / "v.faiss").write_bytes(b"IxSQ and nothing more")
    with pytest.raises(DataError, match="damaged"):
        read_vectors(tmp_path / "v.faiss")


@pytest.mark.parametrize("centre", [(55.7, 13.2), (0.0, 179.9999), (0.0, -179.9999), (89.9999, 0.0), (-89.9, 120.0)])
@pytest.mark.parametrize("radius_m", [30.0, 5000.0])
def test_boxes_hold_every_place_within_the_radius(centre: tuple[float, float], radius_m: float) -> None:
    random = np.random.default_rng(0)
    spread = 2 * math.degrees(radius_m / 6.371e6)
    wide = spread / max(math.cos(math.radians(centre[0])), 1e-3)
    latitudes = np.clip(centre[0] + random.uniform(-spread, spread, 2000), -90, 90)
    longitudes = (centre[1] + random.uniform(-wide, wide, 2000) + 180) % 360 - 180
    places = np.column_stack([latitudes, longitudes])
    within = places[haversine_m(places, centre) <= radius_m]
    assert len(within) > 20
    found = list(boxes(centre, radius_m))
    for latitude, longitude in within.tolist():
        assert any(s <= latitude <= n and w <= longitude <= e for s, n, w, e in found)


def candidate(east_m: float, inliers: int, similarity: float = 0.5, *, keypoints: int = 1000) -> Candidate:
    place = Position.of_utm(386_000 + east_m, 6_170_000, "33N")
    return Candidate(1, "a.jpg", place, similarity, 1.0, 100, inliers, 0.0, keypoints=keypoints)


def test_probability_rises_with_inliers_and_falls_with_keypoints() -> None:
    random = np.random.default_rng(0)
    right = np.arange(200) % 2 == 0
    inliers = np.where(right, random.uniform(20, 200, 200), random.uniform(0, 15, 200)).astype(int)
    fitted = fit_probability([candidate(0, each) for each in inliers.tolist()], right, "made up")
    assert fitted.of(candidate(0, 0)) < 0.2 < 0.8 < fitted.of(candidate(0, 100)) <= 1.0 and fitted.queries == 200
    assert fitted.of(candidate(0, 10**9)) <= 1.0
    assert fitted.of(candidate(0, 10, keypoints=100)) > 0.5 > fitted.of(candidate(0, 10, keypoints=1000))


def test_a_former_probability_goes_by_inliers_beyond_chance() -> None:
    former = Probability.of_table({"slope": 2.0, "offset": -1.0, "queries": 9, "origin": "made up"})
    assert former is not None
    first = replace(candidate(0, 30), inliers_by_chance=10.0)
    assert former.of(first) == pytest.approx(1 / (1 + math.exp(1 - 2 * math.log(21))))
    assert former.of(first) == former.of(replace(first, keypoints=7))


def test_a_fused_position_is_the_weighted_mean_of_those_that_agree() -> None:
    near = [candidate(0, 30), candidate(4, 10), candidate(500, 99)]
    found = fused(near, 10.0)
    assert found is not None and found.metres is not None and found.metres[0] == pytest.approx(386_001)
    assert fused(near[:1], 10.0) == near[0].position and fused([], 10.0) is None


def test_a_drive_outvotes_one_frame_but_not_for_ever() -> None:
    """A frame that looks like a far place is placed by those before it; when all look like it, the camera is there."""
    drive = SequenceFilter(10.0)
    for metres in (0, 10, 20):
        assert (
            drive.update([candidate(metres, 0, 0.8), candidate(5000, 0, 0.7)])[0].position
            == candidate(metres, 0).position
        )
    there, far = candidate(30, 0, 0.75), candidate(5000, 0, 0.8)
    assert drive.update([far, there])[0] is there and SequenceFilter().update([far, there])[0] is far
    assert drive.update([]) == []
    firsts = [drive.update([candidate(5000 + 10 * step, 0, 0.9), candidate(40, 0, 0.6)])[0] for step in range(3)]
    assert firsts[-1].position == candidate(5020, 0).position


def test_what_is_shipped_belongs_to_the_config_of_maps() -> None:
    settings = load(Settings, config_path("map"))
    assert all(shipped.probability(settings, profile) is not None for profile in PROFILES)
    assert shipped.probability(load(Settings, config_path("map"), ["rerank.k=7"]), "default") is not None
    assert shipped.probability(load(Settings, config_path("map"), ["matcher.ratio=0.5"]), "default") is None
    codec = shipped.codec(settings, PROFILES["default"])
    assert codec is not None and codec.profile == PROFILES["default"] and len(codec.projection) == 128
    assert shipped.codec(load(Settings, None, ["local_features.method=rootsift"]), PROFILES["default"]) is None
