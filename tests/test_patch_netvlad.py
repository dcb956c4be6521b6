"""Patch-NetVLAD: patches, their store, and the second stage that compares them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import textured, write_picture
from netvlad_weights import CPU, random_state, saved
from stores import extract_patches
from torch import Tensor
from torch.nn import functional

from vpr import pipeline
from vpr.build import compares_patches, needs_local
from vpr.cli.match_two import match_two
from vpr.config import load
from vpr.core import ConfigError, Dataset, ImageSet, Origin, Ranking
from vpr.features import extraction
from vpr.features.extraction import Extraction
from vpr.features.store import GlobalStore, PatchStore
from vpr.global_descriptors import patch_netvlad, patches
from vpr.global_descriptors.patch_netvlad import PatchNetVlad
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid, box_sums, patch_residuals, whiten_patches
from vpr.images import read_image
from vpr.rerank import PatchReranker, fuse
from vpr.rerank.patch_netvlad import Settings as Rerank
from vpr.rerank.patch_netvlad import homography_inliers, mutual_nearest, shift_agreement
from vpr.settings import Settings
from vpr.weights import WeightsError

CLUSTERS, DIM = 4, 6
ORIGIN = Origin(PatchStore.kind, "fingerprint")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(random_state(CLUSTERS, DIM), tmp_path_factory.mktemp("weights") / "small.pth.tar")


@pytest.fixture(scope="module")
def small(weights: str) -> PatchNetVlad:
    settings = patch_netvlad.Settings(weights=weights, height=48, width=64, patch_sizes=(1, 2, 3), strides=(1, 2, 1))
    return patch_netvlad.build(settings, CPU)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- patches


def test_grids_by_hand() -> None:
    grid = PatchGrid.over(5, 4, size=2, stride=2)
    assert (grid.rows, grid.columns, len(grid)) == (2, 2, 4)
    cells, points = grid.positions()
    assert cells.tolist() == [[0, 0], [2, 0], [0, 2], [2, 2]]
    assert points.tolist() == [[15, 15], [47, 15], [15, 47], [47, 47]]  # a patch of 2 features: 16 * cell + 8 + 7.5
    assert [len(PatchGrid.over(30, 40, size, 1)) for size in (2, 5, 8)] == [1131, 936, 759]
    assert len(PatchGrid.over(3, 9, size=4, stride=1)) == 0


@pytest.mark.parametrize(("size", "stride"), [(1, 1), (5, 1), (2, 2), (3, 4)])
def test_places_as_published(size: int, stride: int) -> None:
    """The published loop, which steps by the stride over what is strided already, and leaves zeros behind."""
    grid = PatchGrid.over(9, 11, size, stride)
    cells, points = np.zeros((len(grid), 2)), np.zeros((len(grid), 2))
    for k, (i, j) in enumerate(itertools.product(range(0, grid.rows, stride), range(0, grid.columns, stride))):
        cells[k] = j, i
        points[k] = [int(16 * each + 8 * (size - 1) + 7.5) for each in (j, i)]
    for ours, theirs in zip(grid.positions(as_published=True), (cells, points), strict=True):
        assert np.array_equal(ours, theirs)
    if stride == 1:
        assert all(torch.equal(*both) for both in zip(grid.positions(), grid.positions(as_published=True), strict=True))


@pytest.mark.parametrize("size", range(1, 9))
def test_box_sums_against_a_plain_loop(size: int) -> None:
    volume = random(2, 8, 10, 3)
    sums = box_sums(volume, size)
    assert sums.shape == (2, 9 - size, 11 - size, 3)
    for row, column in itertools.product(range(9 - size), range(11 - size)):
        window = volume[:, row : row + size, column : column + size]
        assert torch.allclose(sums[:, row, column], window.sum((1, 2)), atol=1e-5)


def plain_patches(unit: Tensor, shares: Tensor, centroids: Tensor, grid: PatchGrid) -> Tensor:
    """(P, K, 512): the mean of each cluster's residuals over each patch, feature by feature, as unit vectors."""
    found = torch.zeros(len(grid), *centroids.shape, dtype=unit.dtype)
    cells, _ = grid.positions()
    for patch, (column, row) in enumerate(cells.tolist()):
        for i, j in itertools.product(range(row, row + grid.size), range(column, column + grid.size)):
            for k, centroid in enumerate(centroids):
                found[patch, k] += shares[i, j, k] * (unit[i, j] - centroid) / grid.size**2
    return found / found.norm(dim=2, keepdim=True)


@pytest.mark.parametrize("chunk", [1, 1 << 30])
def test_patches_are_means_of_residuals(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """And their descriptors are what PCA makes of the flattened clusters, however many are in hand at a time."""
    monkeypatch.setitem(patches.CHUNK_BYTES, "cpu", chunk)
    unit = functional.normalize(random(4, 5, 512), dim=2)
    shares = random(4, 5, 3, seed=1).softmax(2)
    centroids, weight, bias = 0.1 * random(3, 512, seed=2), random(7, 3, 512, seed=3), random(7, seed=4)
    grids = (PatchGrid.over(4, 5, 2, 1), PatchGrid.over(4, 5, 1, 3))
    parts = list(patch_residuals(unit, shares, centroids, grids))
    assert [first for first, _ in parts] == ([0, 1, 2] if chunk == 1 else [0])
    whitened = whiten_patches(iter(parts), grids, weight, bias)
    for i, grid in enumerate(grids):
        plain = plain_patches(unit, shares, centroids, grid)
        assert torch.allclose(torch.cat([found[i] for _, found in parts]).transpose(0, 1), plain, atol=1e-5)
        vlad = functional.normalize(plain.flatten(1), dim=1)
        expected = functional.normalize(vlad @ weight.flatten(1).T + bias, dim=1)
        assert torch.allclose(whitened[i], expected, atol=1e-5)


def test_a_cluster_with_little_mass_keeps_its_direction() -> None:
    """Published integral images lose it: here cluster 0 has all but a millionth of the mass."""
    unit = functional.normalize(random(12, 12, 512), dim=2)
    shares = torch.tensor([1 - 1e-6, 1e-6]).expand(12, 12, 2) * (1 + 0.1 * random(12, 12, 1, seed=1))
    centroids, grid = 0.05 * random(2, 512, seed=2), PatchGrid.over(12, 12, 2, 1)
    (_, (ours,)), *_ = patch_residuals(unit, shares, centroids, [grid])
    exact = plain_patches(unit.double(), shares.double(), centroids.double(), grid)
    assert (ours.transpose(0, 1) - exact).abs().max() < 1e-6


def test_describe_patches_is_the_same_singly_and_in_a_batch(small: PatchNetVlad) -> None:
    images = [small.preprocess(textured(seed)) for seed in range(3)]
    together = small.describe_patches(images)
    vectors = small.describe(images)
    assert [tuple(each.shape) for each in together[0][1].descriptors] == [(12, DIM), (2, DIM), (2, DIM)]
    for i, (vector, found) in enumerate(together):
        assert torch.allclose(vector, vectors[i], atol=1e-6)
        (alone, alone_found), *_ = small.describe_patches([images[i]])
        assert torch.allclose(vector, alone, atol=1e-6)
        for one, other in zip(found.descriptors, alone_found.descriptors, strict=True):
            assert torch.allclose(one, other, atol=1e-6)
            assert torch.allclose(one.norm(dim=1), torch.ones(len(one)), atol=1e-5)
    assert len(together[0][1]) == 16 and together[0][1].keypoints.shape == (16, 2)
    assert small.describe_patches([]) == []


def test_a_blank_image_has_patches(small: PatchNetVlad) -> None:
    _, found = small.describe_patches([small.preprocess(np.zeros((50, 50, 3), np.uint8))])[0]
    assert all(torch.isfinite(each).all() for each in found.descriptors)


def test_weights_without_pca_are_refused(tmp_path: Path) -> None:
    path = saved(random_state(CLUSTERS, None), tmp_path / "without.pth")
    with pytest.raises(WeightsError, match="has no PCA layer"):
        patch_netvlad.build(patch_netvlad.Settings(weights=path), CPU)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["global_descriptor.patch_sizes=[2,5]"], "strides = .* must have one number for each"),
        (["global_descriptor.height=112"], "must fit on the 7 x 40 features"),
        (["global_descriptor.method=thumbnail"], 'needs global_descriptor.method = "patch_netvlad"'),
        (["rerank.patch_weights=[1]"], r"patch_weights = \(1.0,\) must have one value for each of"),
        (["rerank.scoring=votes"], "scoring = 'votes'"),
        (["rerank.score=inliers"], "unknown key 'score'"),
        (["rerank.method=patches"], "unknown re-ranker 'patches'.*known: images, local_features, patch_netvlad"),
    ],
)
def test_senseless_settings_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load(Settings, None, ["global_descriptor.method=patch_netvlad", "rerank.method=patch_netvlad", *overrides])


# ---------------------------------------------------------------- pairs


def test_mutual_nearest_against_a_plain_loop() -> None:
    similarity = random(13, 9)
    pairs, values = mutual_nearest(similarity)
    expected = [
        (row, column)
        for column in range(9)
        for row in range(13)
        if similarity[row, column] == similarity[row].max() == similarity[:, column].max()
    ]
    assert [tuple(pair) for pair in pairs] == expected
    assert np.allclose(values, [similarity[row, column] for row, column in expected])


def test_equal_similarities_give_one_pair() -> None:
    pairs, _ = mutual_nearest(torch.ones(5, 4))
    assert pairs.tolist() == [[0, 0]]
    pairs, _ = mutual_nearest(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert pairs.tolist() == [[0, 0], [2, 1]]


def test_homography_of_shifted_and_strayed_points() -> None:
    first = np.random.default_rng(0).uniform(0, 600, (40, 2))
    second = first + np.array([48, -16])
    second[30:] = np.random.default_rng(1).uniform(0, 600, (10, 2))
    inliers = homography_inliers(first, second, 24.0)
    assert inliers[:30].all() and inliers[30:].sum() <= 2


@pytest.mark.parametrize("count", [0, 1, 3, 4, 20])
def test_too_few_or_degenerate_points_are_no_error(count: int) -> None:
    for points in (np.full((count, 2), 7.0), np.stack([np.arange(count) * 16.0] * 2, axis=1)):
        inliers = homography_inliers(points, points, 24.0)
        assert inliers.shape == (count,) and inliers.dtype == bool
        assert count > 3 or not inliers.any()


def test_shift_agreement_by_hand_and_against_a_plain_loop() -> None:
    extent = np.array([10.0, 6.0])
    cells = np.array([[1.0, 2.0], [4.0, 5.0]])
    assert shift_agreement(cells + np.array([3, 1]), cells, extent) == 2 * (10**2 + 6**2)  # one shift: nothing deviates
    assert shift_agreement(np.zeros((0, 2)), np.zeros((0, 2)), extent) == 0
    query, candidate = (np.random.default_rng(seed).integers(0, 7, (8, 2)).astype(float) for seed in (0, 1))
    total = 0.0
    for axis in (0, 1):
        shifts = [query[i, axis] - candidate[i, axis] for i in range(8)]
        mean = sum(shifts) / 8
        total += sum((extent[axis] - abs(shift - mean)) ** 2 for shift in shifts)
    assert np.isclose(shift_agreement(query, candidate, extent), total)


# ---------------------------------------------------------------- re-ranking

GRIDS = (PatchGrid.over(6, 8, 2, 1), PatchGrid.over(6, 8, 3, 1))


def of_patches(seed: int, noise: float = 0.0, other: int = 0) -> PatchFeatures:
    """Random patches of a place, with some of another's mixed in."""
    descriptors = [random(len(grid), 16, seed=seed) + noise * random(len(grid), 16, seed=other) for grid in GRIDS]
    return PatchFeatures(GRIDS, tuple(functional.normalize(each, dim=1).half() for each in descriptors), (128, 96))


NOTHING = PatchFeatures(GRIDS, tuple(torch.zeros(0, 16, dtype=torch.float16) for _ in GRIDS), (128, 96))
SAME = PatchFeatures(GRIDS, tuple(torch.ones(len(grid), 16).half() / 4 for grid in GRIDS), (128, 96))


def reranker(scoring: str = "ransac", **settings) -> PatchReranker:
    return PatchReranker(Rerank(scoring=scoring, patch_weights=(0.6, 0.4), **settings), CPU)


def shortlist(count: int) -> Ranking:
    return Ranking(np.arange(count)[None], np.linspace(0.9, 0.1, count, dtype=np.float32)[None])


@pytest.mark.parametrize("scoring", ["ransac", "spatial"])
def test_the_right_place_comes_first(scoring: str) -> None:
    database = [of_patches(5), of_patches(6), of_patches(1, 0.5, 9), NOTHING, SAME, of_patches(1, 1.2, 8)]
    ranking = reranker(scoring).rerank(shortlist(6), [of_patches(1)], database)
    assert ranking.rows[0, :2].tolist() == [2, 5]
    assert sorted(ranking.rows[0].tolist()) == list(range(6))
    assert np.isfinite(ranking.scores).all()
    assert ranking.evidence is not None and ranking.evidence.matches[0, 0] > 40
    assert ranking.evidence.matches[0, ranking.rows[0].tolist().index(3)] == 0


def test_each_size_is_standardised_and_weighted() -> None:
    query, database = of_patches(1), [of_patches(2), of_patches(1, 0.8, 3), of_patches(1, 0.3, 4)]
    one = reranker()
    scores = np.stack([one.pair(query, each).scores for each in database])
    fused = fuse(scores, [0.6, 0.4])
    ranking = one.rerank(shortlist(3), [query], database)
    assert np.allclose(ranking.scores[0], np.sort(fused)[::-1], atol=1e-6)
    assert ranking.rows[0].tolist() == np.argsort(-fused, kind="stable").tolist()


@pytest.mark.parametrize("scoring", ["ransac", "spatial"])
def test_scores_of_a_pair_by_hand(scoring: str) -> None:
    """A picture against itself: every patch is its own nearest, and nothing deviates."""
    pair = reranker(scoring).pair(of_patches(3), of_patches(3))
    if scoring == "ransac":
        assert pair.scores.tolist() == [1, 1]
        assert reranker().score(pair) == pytest.approx(1)
    else:
        assert pair.scores.tolist() == [6**2 + 4**2, 5**2 + 3**2]
    assert len(pair.matches) == len(of_patches(3)) == 35 + 24
    assert pair.matches.pairs[:, 0].tolist() == pair.matches.pairs[:, 1].tolist() == list(range(59))


@pytest.mark.parametrize("scoring", ["ransac", "spatial"])
@pytest.mark.parametrize("alike", [SAME, NOTHING, of_patches(7)])
def test_candidates_that_are_all_alike_keep_their_order(scoring: str, alike: PatchFeatures) -> None:
    for query in (of_patches(1), SAME, NOTHING):
        ranking = reranker(scoring).rerank(shortlist(4), [query], [alike] * 4)
        assert ranking.rows[0].tolist() == [0, 1, 2, 3]
        assert np.isfinite(ranking.scores).all()
        alone = reranker(scoring).rerank(shortlist(1), [query], [alike])
        assert alone.rows.tolist() == [[0]] and np.isfinite(alone.scores).all()


def test_no_mutual_match_scores_nothing() -> None:
    pair = reranker().pair(of_patches(1), NOTHING)
    assert pair.scores.tolist() == [0, 0] and len(pair.matches) == 0 and pair.evidence.inliers == 0


def test_only_the_first_k_are_compared_and_the_rest_follow() -> None:
    database = [of_patches(5), of_patches(1, 0.2, 9), of_patches(6), of_patches(1)]
    ranking = reranker(k=3).rerank(shortlist(4), [of_patches(1)], database)
    assert ranking.rows[0, 0] == 1 and ranking.rows[0, 3] == 3
    assert ranking.evidence is not None and ranking.evidence.matches[0, 3] == -1
    assert reranker(k=0).rerank(shortlist(4), [of_patches(1)], database).rows[0].tolist() == [0, 1, 2, 3]


def test_a_candidate_is_scored_alike_in_any_company() -> None:
    query, database = of_patches(1), [of_patches(1, 0.5, seed) for seed in range(5)]
    together = reranker().compare(query, database)
    for pair, candidate in zip(together, database, strict=True):
        assert np.array_equal(pair.scores, reranker().pair(query, candidate).scores)


# ---------------------------------------------------------------- store


@pytest.fixture
def stored(small: PatchNetVlad, image_set: ImageSet, tmp_path: Path) -> PatchStore:
    how = Extraction(batch_size=2, shard_size=5, threads=1)
    return extract_patches(image_set, small, tmp_path / "store", ORIGIN, how)


def test_store_holds_what_was_described(stored: PatchStore, small: PatchNetVlad, image_set: ImageSet) -> None:
    assert len(stored) == 12 and stored.matrix().shape == (12, DIM)
    assert list(stored.failed()) == [9]
    image = small.preprocess(read_image(image_set.path(3), "rgb"))
    vector, found = small.describe_patches([image])[0]
    assert np.allclose(stored.matrix()[3], vector, atol=1e-3)
    assert stored[3].grids == small.grids and stored[3].image_size == (64, 48)
    for ours, theirs in zip(stored[3].descriptors, found.descriptors, strict=True):
        assert ours.dtype == torch.float16 and torch.allclose(ours.float(), theirs, atol=1e-3)
    with pytest.raises(IndexError):
        stored[12]
    assert [len(each) for each in stored[8:11]] == [16, 0, 16]


def test_an_unreadable_image_has_no_patches(stored: PatchStore) -> None:
    assert len(stored[9]) == 0 and not stored.matrix()[9].any()
    assert stored[9].keypoints.shape == (0, 2)
    pair = PatchReranker(Rerank(), CPU).pair(stored[0], stored[9])
    assert pair.scores.tolist() == [0, 0, 0]


def test_shards_stay_small_whatever_was_asked_for(
    small: PatchNetVlad, image_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "SHARD_BYTES", 4 * 16 * DIM * 2)
    store = extract_patches(image_set, small, tmp_path / "store", ORIGIN, Extraction(shard_size=100, threads=1))
    assert store.shard_size == 4 and len(list((tmp_path / "store").rglob("*.safetensors"))) == 3


def test_a_shard_that_was_lost_is_made_again_alike(
    stored: PatchStore, small: PatchNetVlad, image_set: ImageSet
) -> None:
    before = {path.name: path.read_bytes() for path in stored.folder.rglob("*.safetensors")}
    next(stored.folder.rglob("*.safetensors")).unlink()
    (stored.folder / "index.json").unlink()
    extract_patches(image_set, small, stored.folder, ORIGIN, Extraction(batch_size=3, shard_size=5, threads=1))
    assert {path.name: path.read_bytes() for path in stored.folder.rglob("*.safetensors")} == before


# ---------------------------------------------------------------- pipeline


@pytest.fixture
def overrides(weights: str) -> list[str]:
    return [
        "global_descriptor.method=patch_netvlad",
        f"global_descriptor.weights={weights}",
        "global_descriptor.height=96",
        "global_descriptor.width=128",
        "global_descriptor.patch_sizes=[2,3]",
        "global_descriptor.strides=[1,1]",
        "rerank.method=patch_netvlad",
        "rerank.patch_weights=[0.5,0.5]",
        "machine.device=cpu",
        "evaluation.bootstrap=10",
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Six places, of which three are queried with some noise in the picture."""
    for place in range(6):
        view = textured(place, 96, 128)
        write_picture(tmp_path / "database" / f"{place}.png", view)
        if place < 3:
            noise = np.random.default_rng(place).integers(0, 12, view.shape)
            write_picture(tmp_path / "queries" / f"{place}.png", np.clip(view + noise, 0, 255).astype(np.uint8))
    sets = {role: tuple(f"{i}.png" for i in range(count)) for role, count in (("database", 6), ("queries", 3))}
    database, queries = (ImageSet(tmp_path / role, names) for role, names in sets.items())
    return Dataset("noisy", "same place", database, queries, tuple(np.array([place]) for place in range(3)))


def test_a_run_reranks_by_patches(dataset: Dataset, overrides: list[str], tmp_path: Path) -> None:
    settings, out = load(Settings, None, overrides), tmp_path / "run"
    assert compares_patches(settings) and not needs_local(settings)
    summary = pipeline.run(dataset, settings, out, {}).summary
    assert summary is not None
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    first = {row["query"]: row for row in rows if row["rank"] == 1}
    assert {query: row["candidate"] for query, row in first.items()} == {f"{i}.png": f"{i}.png" for i in range(3)}
    assert all(row["inliers"] >= 8 for row in first.values())
    assert not (out / "features" / "database" / "local").exists()
    assert (out / "report.html").stat().st_size > 10_000
    timings = {each["stage"]: each for each in json.loads((out / "run.json").read_text())["timings"]}
    assert timings["extract, queries"]["median_ms"] > 0
    before = (out / "predictions.jsonl").read_text()
    pipeline.run(dataset, settings, out, {})  # everything is there already
    assert (out / "predictions.jsonl").read_text() == before


def test_a_run_without_reranking_stores_no_patches(dataset: Dataset, overrides: list[str], tmp_path: Path) -> None:
    settings = load(Settings, None, [*overrides, "rerank.k=0"])
    pipeline.run(dataset, settings, tmp_path / "run", {})
    store = GlobalStore(tmp_path / "run" / "features" / "database" / "global")
    assert not isinstance(store, PatchStore) and store.matrix().shape == (6, DIM)


def test_match_two(dataset: Dataset, overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "matches.png"
    match_two(dataset.queries.path(0), dataset.database.path(0), out, overrides=overrides)
    said = capsys.readouterr().out
    assert "(ransac)" in said and "keypoints 59 and 59" in said and out.exists()
