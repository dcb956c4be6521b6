"""Our networks against what the published ones gave with the same weights: see tests/golden.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import golden
import numpy as np
import pytest
import test_golden_gluestick
import test_golden_imp
import test_golden_measures as measures
import torch
from golden import GoldenFile, Section, Sections, as_is, by_case, checkpoint, nothing, options
from netvlad_weights import save_struct
from torch import Tensor

from vpr.core import LocalFeatures, Matches, Ranking
from vpr.global_descriptors import netvlad, netvlad_mat, patch_netvlad
from vpr.global_descriptors.networks import IMAGENET, pillow_resize, to_tensor
from vpr.global_descriptors.patches import PatchFeatures, PatchGrid, patch_residuals
from vpr.global_descriptors.whitening import fit_whitening
from vpr.local_features import detection, superpoint
from vpr.local_features.detection import score_map, suppress
from vpr.matchers import lightglue, superglue
from vpr.matchers.lightglue_adaptive import match_adaptively
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.one_to_many import mutual_best
from vpr.matchers.points import stack
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.rerank import PatchReranker, fuse
from vpr.rerank.patch_netvlad import Settings as Rerank

CPU = torch.device("cpu")


def of_hloc(file: GoldenFile) -> Sections:
    """Whitened descriptors apart: their weights are half a gigabyte."""
    found = {}
    for name, names in by_case(file).items():
        whitened = [each for each in names if each == f"{name}/global_descriptor"]
        found[name] = [each for each in names if each not in whitened]
        if whitened:
            found[f"{name} whitened"] = whitened
    return found


SPLITS: Mapping[str, Callable[[GoldenFile], Sections]] = {
    "superpoint_v1": lambda file: by_case(file, "nms"),
    "superpoint_open": lambda file: by_case(file, "nms"),
    "superglue": lambda file: by_case(file, "pair"),
    "lightglue": lambda file: by_case(file, "pair"),
    "patchnetvlad": lambda file: by_case(file, "resize"),
    "patchnetvlad_matcher": lambda file: {"all": list(file.arrays)},
    "pca_whitening": by_case,
    "netvlad_hloc": of_hloc,
    "metrics": measures.split,
    "imp": test_golden_imp.split,
    "gluestick": test_golden_gluestick.split,
}


def sections(model: str, only: str = ".+") -> list[Any]:
    return golden.sections(SPLITS[model], model, only)


@pytest.mark.skipif(golden.CHOSEN in ("", "all"), reason="VPR_GOLDEN names no folder")
def test_the_folder_that_is_asked_for_holds_golden_files() -> None:
    assert golden.files(), f"{golden.FOLDER}: holds no *_seed<number>.npz"


@pytest.mark.parametrize("file", golden.files(), ids=lambda file: file.path.stem)
def test_every_array_is_in_a_section_that_is_tested(file: GoldenFile) -> None:
    assert file.model in SPLITS, f"{file.path}: no test knows this model; add one"
    assert SPLITS[file.model](file).get("", []) == []


# ---------------------------------------------------------------- SuperPoint


def at_most(value: int | None) -> dict[str, Any]:
    return {"max_keypoints": max(0, value or 0)}  # -1 and None: no cap


SUPERPOINT = {key: nothing for key in ("name", "image", "size", "batch", "channels", "conf", "descriptor_dim")} | {
    "nms_radius": as_is("nms_radius"),
    "keypoint_threshold": as_is("keypoint_threshold"),
    "detection_threshold": as_is("keypoint_threshold"),
    "remove_borders": as_is("border"),
    "max_keypoints": at_most,
    "max_num_keypoints": at_most,
    "fix_sampling": lambda fixed: {"sampling": "corrected" if fixed else "published"},
}


def images_of(section: Section, case: Mapping[str, Any]) -> Tensor:
    """(B, 1, H, W) float; colour is turned to grey as the published code does it."""
    batch, images = case.get("batch", 1), []
    for i in range(batch):
        name = case["image"] + (f":{i}" if batch > 1 else "")
        pixels = section.file.recipe.synth_image(section.file.seed, name, *case["size"], case.get("channels", 1))
        unit = torch.from_numpy(pixels).float() / 255
        images.append(unit if unit.dim() == 2 else (unit * torch.tensor([0.299, 0.587, 0.114])).sum(-1))
    return torch.stack(images)[:, None]


def extract_and_see(
    monkeypatch: pytest.MonkeyPatch, method: superpoint.SuperPoint, images: Tensor
) -> tuple[list[LocalFeatures], list[Tensor]]:
    """Features, and the maps that the network gave on the way: logits and coarse descriptors."""
    maps: list[Any] = []
    network = method.network

    def seen(batch: Tensor) -> Any:
        maps.append(network(batch))
        return maps[-1]

    monkeypatch.setattr(method, "network", seen)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # one after the other, so that the maps are in order
    found = method.extract(list(images))
    return found, [torch.cat(each) for each in zip(*maps, strict=True)]


def check_suppressed(section: Section, scores: Tensor, atol: float) -> None:
    """Only scores above the lowest recorded one are recorded; one as low as that may be missing on either side."""
    index, values = section[f"{section.name}/nms_index"], section[f"{section.name}/nms_value"]
    ours = scores.numpy().reshape(-1)
    expected = np.zeros_like(ours)
    expected[index] = values
    above = (ours > values.min() + atol) | (expected > values.min() + atol)
    np.testing.assert_allclose(ours[above], expected[above], rtol=0, atol=atol)


def check_features(section: Section, prefix: str, found: LocalFeatures, lowest: float) -> None:
    """The same keypoints in any order; scores of all, and descriptors of those picked.

    A keypoint may be missing only if its score is as low as the lowest that counts.
    """
    tolerance = section.facts["tolerance"]
    keypoints, scores = section[f"{prefix}/keypoints"], section[f"{prefix}/scores"]
    place = {tuple(point): i for i, point in enumerate(found.keypoints.tolist())}
    theirs = {tuple(point): i for i, point in enumerate(keypoints.tolist())}
    odd = [float(found.scores[place[each]]) for each in place.keys() - theirs.keys()]
    odd += [float(scores[theirs[each]]) for each in theirs.keys() - place.keys()]
    assert all(abs(score - lowest) < tolerance["scores"] for score in odd), f"{len(odd)} keypoints differ"
    common = [each for each in theirs if each in place]
    ours = found.scores[[place[each] for each in common]]
    np.testing.assert_allclose(
        ours.numpy(), scores[[theirs[each] for each in common]], rtol=0, atol=tolerance["scores"]
    )
    if f"{prefix}/descriptor_columns" in section:
        picked, descriptors = section[f"{prefix}/descriptor_columns"], section[f"{prefix}/descriptors"].T
    else:
        picked, descriptors = section[f"{prefix}/descriptor_rows_index"], section[f"{prefix}/descriptors"]
    for row, descriptor in zip(picked, descriptors, strict=True):
        if (point := tuple(keypoints[row].tolist())) in place:
            ours = found.descriptors[place[point]].numpy()
            np.testing.assert_allclose(ours, descriptor, rtol=0, atol=tolerance["descriptors"])


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("superpoint_v1", "(?!nms$).+") + sections("superpoint_open", "(?!nms$).+"))
def test_superpoint(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, tolerance, case = section.name, section.facts["tolerance"], section.file.case(section.name)
    v1 = section.file.model == "superpoint_v1"
    logits_name, coarse_name = ("convPb", "convDb") if v1 else ("detector", "descriptor")
    published = {**section.facts["defaults"], **case, **case.get("conf", {})}
    chosen = {"subpixel": False, **({"sampling": "published"} if v1 else {}), **options(published, SUPERPOINT)}
    settings = superpoint.Settings(weights=checkpoint(section, tmp_path), **chosen)
    images = images_of(section, case)
    features, (logits, coarse) = extract_and_see(monkeypatch, superpoint.build(settings, CPU), images)
    with section.compared():
        section.check(f"{name}/{logits_name}", logits, tolerance[logits_name])
        section.check(f"{name}/{coarse_name}", coarse, tolerance[coarse_name])
        scores = score_map(logits)
        section.check(f"{name}/softmax", scores, tolerance["softmax"])
        check_suppressed(section, suppress(scores, settings.nms_radius), tolerance["nms_value"])
        for i, found in enumerate(features):
            prefix = f"{name}/{i}" if len(features) > 1 else name
            capped = settings.max_keypoints and len(section[f"{prefix}/scores"]) == settings.max_keypoints
            lowest = section[f"{prefix}/scores"].min() if capped else settings.keypoint_threshold
            check_features(section, prefix, found, float(lowest))
            assert len(found) == len(section[f"{prefix}/scores"])
            assert found.image_size == tuple(reversed(case["size"]))
            assert (found.scores[1:] <= found.scores[:-1]).all()


@pytest.mark.parametrize("section", sections("superpoint_v1", "nms") + sections("superpoint_open", "nms"))
def test_suppression(section: Section) -> None:
    scores = torch.from_numpy(section["nms/in_scores"])
    with section.compared():
        for name, match in section.matching(r"nms/radius(\d+)"):
            for ours in (suppress, detection._suppress_by_pooling):
                section.check(name, ours(scores, int(match[1])), 0)


# ---------------------------------------------------------------- matchers


def pair_of(section: Section, name: str) -> Mapping[str, Any]:
    return next(each for each in section.facts["pairs"] if each["name"] == name)


def features_of(section: Section, case: Mapping[str, Any], pair: Mapping[str, Any], i: int) -> LocalFeatures:
    """Image i of a pair."""
    if case.get("empty") == i:
        return LocalFeatures.empty(256)

    def given(part: str) -> Tensor:
        return torch.from_numpy(section.file.arrays[f"pair/{pair['name']}/in_{part}{i}"]).float()

    keypoints = given("keypoints")
    scores = f"pair/{pair['name']}/in_scores{i}" in section.file.arrays
    height, width = (0, 0) if case.get("no_size") else pair[f"size{i}"]
    return LocalFeatures(
        keypoints, given("scores") if scores else torch.zeros(len(keypoints)), given("descriptors"), (width, height)
    )


def pairs_of(section: Section) -> list[tuple[LocalFeatures, LocalFeatures]]:
    case = section.file.case(section.name)
    pairs = [pair_of(section, name) for name in case["pairs"]]
    return [(features_of(section, case, pair, 0), features_of(section, case, pair, 1)) for pair in pairs]


@pytest.mark.parametrize("section", sections("superglue", "pair") + sections("lightglue", "pair"))
def test_inputs_of_the_matchers_are_those_of_the_recipe(section: Section) -> None:
    with section.compared():
        for pair in section.facts["pairs"]:
            sizes = [pair[key] for key in ("n0", "n1")]
            made = section.file.recipe.feature_pair(
                section.file.seed,
                f"{section.file.model}:{pair['name']}",
                *sizes,
                section.facts.get("descriptor_dim", 256),
                pair["size0"],
                pair["size1"],
            ) | {"true_matches0": None}
            for name, match in section.matching(rf"pair/{pair['name']}/in_(\w+)"):
                expected = made["gt0"] if match[1] == "true_matches0" else made[match[1]]
                assert np.array_equal(section[name], expected), name


def check_matches(section: Section, row: int, found: Matches, atol: float) -> None:
    """What our matcher returns, which holds only what is above the threshold."""
    name = section.name
    for side, (own, other) in enumerate(((0, 1), (1, 0))):
        expected = section[f"{name}/matches{side}"][row]
        order = found.pairs[:, own].argsort()
        assert found.pairs[order, own].tolist() == np.flatnonzero(expected >= 0).tolist(), f"{name}/matches{side}"
        assert found.pairs[order, other].tolist() == expected[expected >= 0].tolist(), f"{name}/matches{side}"
        scores = section[f"{name}/matching_scores{side}"][row][expected >= 0]
        np.testing.assert_allclose(found.scores[order].numpy(), scores, rtol=0, atol=atol)


def check_scores(section: Section, log_scores: Tensor, atol: float) -> None:
    """Scores of all mutual pairs of log-probabilities (B, M, N); a keypoint of the second image has its partner's."""
    partner, scores0 = mutual_best(log_scores)
    scores1 = torch.zeros(log_scores.shape[0], log_scores.shape[2])
    batch, rows = (partner >= 0).nonzero().unbind(1)
    scores1[batch, partner[batch, rows]] = scores0[batch, rows]
    section.check(f"{section.name}/matching_scores0", scores0, atol)
    section.check(f"{section.name}/matching_scores1", scores1, atol)


def check_assignment(section: Section, assignment: Tensor, atol: float) -> None:
    name = section.name
    section.check(f"{name}/log_assignment", assignment, atol)
    section.check(f"{name}/log_assignment_last_column", assignment[:, :, -1], atol)
    section.check(f"{name}/log_assignment_last_row", assignment[:, -1, :], atol)


def check_nothing_matches(section: Section, found: Sequence[Matches]) -> None:
    assert [len(each) for each in found] == [0] * len(found)
    for name, match in section.matching(rf"{section.name}/(matches|matching_scores|prune|stop|scores)\d?"):
        value = {"matches": -1, "prune": 1, "stop": 1}.get(match[1], 0)
        assert (section[name] == value).all(), name


SUPERGLUE = {key: nothing for key in ("name", "pairs", "empty", "no_size", "conf")} | {
    "sinkhorn_iterations": as_is("sinkhorn_iterations"),
    "match_threshold": as_is("match_threshold"),
}


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("superglue", "(?!pair$).+"))
def test_superglue(section: Section, tmp_path: Path) -> None:
    name, tolerance, case = section.name, section.facts["tolerance"], section.file.case(section.name)
    weights = checkpoint(section, tmp_path)
    chosen = options({**case, **case.get("conf", {})}, SUPERGLUE)
    method = superglue.build(superglue.Settings(weights=weights, **chosen), CPU)
    pairs = pairs_of(section)
    found = [method.match(query, [candidate])[0] for query, candidate in pairs]
    with section.compared():
        if "empty" in case:
            check_nothing_matches(section, found)
            return
        for row, matches in enumerate(found):
            check_matches(section, row, matches, tolerance["matching_scores"])
        batches = [stack(each, SuperGlueNetwork.reach, CPU) for each in zip(*pairs, strict=True)]
        fast = method.network
        plain = SuperGlueNetwork(sinkhorn_iterations=method.settings.sinkhorn_iterations).eval()
        plain.load_state_dict(torch.load(weights, weights_only=True))
        given = spied_layers(plain)
        for assignment in (fast.log_assignment(*map(fast.encode, batches)), plain(*batches)):
            check_assignment(section, assignment, tolerance["log_assignment"])
            check_scores(section, assignment[:, :-1, :-1], tolerance["matching_scores"])
        for array, match in section.matching(rf"{name}/gnn_(input_layer\d+|output)_([01])"):
            section.check(array, given[match[1]][int(match[2])].mT, tolerance["gnn"])


def spied_layers(network: SuperGlueNetwork) -> dict[str, list[Tensor]]:
    """What each layer of the graph is given for both images, and what the last one leaves; filled as it runs."""
    given: dict[str, list[Tensor]] = {}

    def note(key: str, tensors: Sequence[Tensor]) -> None:
        given.setdefault(key, []).extend(tensors)

    for i, layer in enumerate(network.gnn.layers):
        layer.register_forward_pre_hook(lambda _, args, i=i: note(f"input_layer{i}", args[:1]))
    network.gnn.register_forward_hook(lambda _, args, both: note("output", both))
    return given


LIGHTGLUE = {key: as_is(key) for key in ("depth_confidence", "width_confidence", "filter_threshold")}


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("lightglue", "(?!pair$).+"))
def test_lightglue(section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, tolerance, case = section.name, section.facts["tolerance"], section.file.case(section.name)
    weights = checkpoint(section, tmp_path)
    settings = lightglue.Settings(weights=weights, **options(case.get("conf", {}), LIGHTGLUE))
    method = lightglue.build(settings, CPU)
    pairs = pairs_of(section)
    found = [method.match(query, [candidate])[0] for query, candidate in pairs]
    with section.compared():
        for row, matches in enumerate(found):
            check_listed_matches(section, row, matches, tolerance["scores"])
        if "empty" in case:
            check_nothing_matches(section, found)
            return
        for row, matches in enumerate(found):
            check_matches(section, row, matches, tolerance["scores"])
        layers, judged, assigned = spied_lightglue(monkeypatch, method.network)
        batches = [stack(each, LightGlueNetwork.reach, CPU) for each in zip(*pairs, strict=True)]
        outcome = match_adaptively(method.network, *map(method.network.encode, batches), method.adaptivity)
        assert np.array_equal(np.unique(outcome.stop), np.unique(section[f"{name}/stop"]))
        check_scores(section, outcome.log_scores[:, :-1, :-1], tolerance["scores"])
        for side, survived in enumerate((outcome.survived0, outcome.survived1)):
            narrows = settings.width_confidence > 0
            rounds = 1 + survived[:, :-1] if narrows else torch.full_like(survived[:, :-1], method.network.layers)
            section.check(f"{name}/prune{side}", rounds, 0)
        for array, match in section.matching(rf"{name}/layer(\d+)_([01])"):
            section.check(array, layers[int(match[1])][int(match[2])], tolerance["layers"])
        for array, match in section.matching(rf"{name}/confidence(\d+)_([01])"):
            section.check(array, judged[int(match[1])][int(match[2])][..., 1], tolerance["confidence"])
        check_head(section, weights, assigned[-1], tolerance["log_assignment"])
        check_training_form(section, weights, batches, method)


def check_listed_matches(section: Section, row: int, found: Matches, atol: float) -> None:
    """The published code lists its matches too, of each pair of a batch on its own."""
    for array, match in section.matching(rf"{section.name}/(?:(\d+)/)?(matches|scores)(?:_(\d+))?"):
        if int(match[1] or match[3] or 0) == row and match[2] == "matches":
            assert found.pairs.tolist() == section[array].reshape(-1, 2).tolist(), array
        elif int(match[1] or match[3] or 0) == row:
            section.check(array, found.scores, atol)


def spied_lightglue(monkeypatch: pytest.MonkeyPatch, network: Any) -> tuple[dict, dict, list]:
    """What the layers and the judges give, and the last layer, its descriptors and its assignment, as it runs."""
    layers: dict[int, list[Tensor]] = {}
    judged: dict[int, list[Tensor]] = {}
    assigned: list[tuple[int, list[Tensor], Tensor]] = []
    layer, judge, log_assignment = network.layer, network.judge, network.log_assignment

    def see_layer(i: int, *sides: Any) -> Any:
        after = layer(i, *sides)
        layers[i] = [each.x for each in after]
        return after

    def see_judge(i: int, side: Any) -> Tensor:
        judged.setdefault(i, []).append(judge(i, side))
        return judged[i][-1]

    def see_assignment(i: int, *sides: Any) -> Tensor:
        assigned.append((i, [each.x for each in sides], log_assignment(i, *sides)))
        return assigned[-1][2]

    monkeypatch.setattr(network, "layer", see_layer)
    monkeypatch.setattr(network, "judge", see_judge)
    monkeypatch.setattr(network, "log_assignment", see_assignment)
    return layers, judged, assigned


def plain_lightglue(weights: str) -> LightGlueNetwork:
    network = LightGlueNetwork()
    network.load_state_dict(network.convert_state_dict(torch.load(weights, weights_only=True)))
    return network.eval()


def check_head(section: Section, weights: str, assigned: tuple[int, list[Tensor], Tensor], atol: float) -> None:
    """The whole assignment by the module of the last layer that ran; the fast form has no last row and column."""
    i, descriptors, core = assigned
    assignment = plain_lightglue(weights).log_assignment[i](*descriptors, None, None)
    check_assignment(section, assignment, atol)
    torch.testing.assert_close(core, assignment[:, :-1, :-1], rtol=0, atol=atol)


def check_training_form(section: Section, weights: str, batches: Sequence[Any], method: lightglue.LightGlue) -> None:
    """The form that is trained gives the same where nothing stops and nobody is left out."""
    settings = method.settings
    if settings.depth_confidence <= 0 and settings.width_confidence <= 0:
        assignment = plain_lightglue(weights)(*batches)[-1].log_assignment
        check_assignment(section, assignment, section.facts["tolerance"]["log_assignment"])


# ---------------------------------------------------------------- NetVLAD and Patch-NetVLAD


def view_of(section: Section, case: Mapping[str, Any], i: int) -> np.ndarray:
    of = case["images"][i]
    image: np.ndarray = section.file.recipe.synth_view(
        section.file.seed, of["scene"], of["k"], *case["size"], of["dx"], of["dy"], 3
    )
    return image


def grids_of(section: Section, prefix: str, height: int, width: int) -> dict[int, PatchGrid]:
    """By size, with the stride that gives as many patches as are recorded."""
    counts: dict[int, int] = {}
    for name, match in section.matching(rf"{re.escape(prefix)}(?:keypoints|grid)_patch(\d+)"):
        counts[int(match[1])] = section.file.arrays[name].shape[1]
    for name, match in section.matching(rf"{re.escape(prefix)}\d+/local_patch(\d+)_shape"):
        counts[int(match[1])] = int(section.file.arrays[name][1])
    grids = {}
    for size, count in sorted(counts.items()):
        tried = (PatchGrid.over(height // 16, width // 16, size, stride) for stride in range(1, 40))
        grids[size] = next(each for each in tried if len(each) == count)
    return grids


def check_places(section: Section, prefix: str, grids: Mapping[int, PatchGrid]) -> None:
    for size, grid in grids.items():
        for kind, places in zip(("grid", "keypoints"), grid.positions(as_published=True), strict=True):
            if f"{prefix}{kind}_patch{size}" in section:
                section.check(f"{prefix}{kind}_patch{size}", places.T, 0)


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("patchnetvlad", "(?!resize$).+"))
def test_patch_netvlad(section: Section, tmp_path: Path) -> None:
    name, case = section.name, section.file.case(section.name)
    weights = checkpoint(section, tmp_path, section.facts["shapes_by_case"][name])
    height, width = case["size"]
    grids = grids_of(section, f"{name}/", height, width)
    with section.compared():
        if case["pooling"] == "netvlad" or not grids:
            settings = netvlad.Settings(weights=weights, height=height, width=width)
            vlad = netvlad.build(settings, CPU)
            for i in range(len(case["images"])):
                check_global(section, f"{name}/{i}", vlad, vlad.preprocess(view_of(section, case, i)))
            check_quiet_patches(section)
            return
        model = patch_netvlad.build(
            patch_netvlad.Settings(
                weights=weights,
                height=height,
                width=width,
                patch_sizes=tuple(grids),
                strides=tuple(each.stride for each in grids.values()),
            ),
            CPU,
        )
        check_places(section, f"{name}/", grids)
        found = []
        for i in range(len(case["images"])):
            image = model.preprocess(view_of(section, case, i))
            found.append(check_patches(section, f"{name}/{i}", model, image))
        for i, other in enumerate(found[1:], 1):
            check_match(section, f"{name}/match{i}", found[0], other)
        if f"{name}/keypoints_agree_with_patches" in section:
            agree = section[f"{name}/keypoints_agree_with_patches"]
            assert all(agree[[grid.stride == 1 for grid in grids.values()]])


def check_quiet_patches(section: Section) -> None:
    """NetVLAD alone has no patches."""
    assert not list(section.matching(r".*patch\d+"))


def check_global(section: Section, prefix: str, model: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    """Every quantity of the whole image; returns its unit features and their shares in the clusters."""
    tolerance, network = section.facts["tolerance"], model.network
    _, maps = next(model.backbone.maps([image]))
    unit, shares = network.pool.assign(maps)
    vlad = network.flatten(network.pool(unit, shares))
    section.check(f"{prefix}/encoder", maps, tolerance["encoder"])
    section.check(f"{prefix}/global_vlad", vlad, tolerance["global_vlad"])
    section.check(f"{prefix}/global", network.whiten(vlad)[0], tolerance["global"])
    return unit[0], shares[0]


def check_patches(section: Section, prefix: str, model: Any, image: Tensor) -> PatchFeatures:
    """Every quantity recorded of one image; returns its patches."""
    tolerance = section.facts["tolerance"]
    unit, shares = check_global(section, prefix, model, image)
    found: PatchFeatures = model._patches(unit, shares)  # as describe_patches, without VGG16
    for place, (grid, descriptors) in enumerate(zip(model.grids, found.descriptors, strict=True)):
        if f"{prefix}/local_vlad_patch{grid.size}" in section:
            parts = patch_residuals(unit, shares, model.network.pool.centroids, model.grids)
            volume = torch.cat([part[place] for _, part in parts])
            local = (volume / len(volume) ** 0.5).permute(0, 2, 1).flatten(0, 1)[None]
            section.check(f"{prefix}/local_vlad_patch{grid.size}", local, tolerance["local_vlad"])
        if f"{prefix}/local_patch{grid.size}" in section:
            section.check(f"{prefix}/local_patch{grid.size}", descriptors.T, tolerance["local"])
    return found


def check_nearest(section: Section, prefix: str, query: PatchFeatures, other: PatchFeatures) -> None:
    """Nearest patches both ways; a rounding may turn one in 200."""
    for grid, one, two in zip(query.grids, query.descriptors, other.descriptors, strict=True):
        similarity = one.float() @ two.float().T
        for side, dim in (("db", 0), ("query", 1)):
            equal = similarity.argmax(dim).numpy() == section[f"{prefix}/nn_of_{side}_patch{grid.size}"]
            assert equal.mean() >= 0.995, f"{prefix}/nn_of_{side}_patch{grid.size}"


def scored(query: PatchFeatures, other: PatchFeatures, scoring: str) -> np.ndarray:
    settings = Rerank(patch_weights=(1.0,) * len(query.grids), scoring=scoring, as_published=True)
    return PatchReranker(settings, CPU).pair(query, other).scores


def check_match(section: Section, prefix: str, query: PatchFeatures, other: PatchFeatures) -> None:
    if not list(section.matching(rf"{prefix}/.*")):
        return
    check_nearest(section, prefix, query, other)
    section.check(f"{prefix}/RANSAC", -scored(query, other, "ransac"), 0.02)
    section.check(f"{prefix}/spatialApproximator", -scored(query, other, "spatial"), 0, rtol=0.01)


RESIZE = {"name": "resize", "size": [300, 410], "to": [480, 640]}


@pytest.mark.parametrize("section", sections("patchnetvlad", "resize"))
def test_resize_of_patch_netvlad(section: Section) -> None:
    """Pillow's, not OpenCV's."""
    how = {**RESIZE, **section.facts.get("resize", {})}
    image = section.file.recipe.synth_image(section.file.seed, how["name"], *how["size"], 3)
    height, width = how["to"]

    def levels(resized: np.ndarray) -> np.ndarray:
        return IMAGENET.normalise(to_tensor(resized)[None])[0].numpy().reshape(-1)[section["resize/index"]]

    with section.compared():
        tolerance = section.facts["tolerance"]["resize"]
        section.check("resize/value", levels(pillow_resize(image, (width, height))), tolerance)
        by_opencv = levels(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR))
        assert np.abs(by_opencv - section["resize/value"]).max() > tolerance


@pytest.mark.parametrize("section", sections("patchnetvlad_matcher"))
def test_matcher_of_patch_netvlad(section: Section) -> None:
    height, width = section.facts["image_size"]
    grids = grids_of(section, "", height, width)

    def given(name: str, sizes: Sequence[int] = tuple(grids)) -> PatchFeatures:
        descriptors = [torch.from_numpy(section[f"in_{name}_patch{size}"].T.copy()) for size in sizes]
        return PatchFeatures(tuple(grids[size] for size in sizes), tuple(descriptors), (width, height))

    with section.compared():
        check_places(section, "", grids)
        pairs = {match[1]: match for _, match in section.matching(r"(q(\d+)_db(\d+))/RANSAC")}
        true: dict[int, set[int]] = {}
        for name, match in pairs.items():
            if check_scored_pair(section, name, given(f"query{match[2]}"), given(f"db{match[3]}")):
                true.setdefault(int(match[2]), set()).add(int(match[3]))
        for name, text in section.facts["rerank"].items():
            check_order(section, name, text, given, true)


def check_scored_pair(section: Section, name: str, query: PatchFeatures, other: PatchFeatures) -> bool:
    """The scores of a pair; returns whether a fifth of the patches are inliers, which unrelated images never have."""
    counts = np.array([len(each) for each in query.grids])
    check_nearest(section, name, query, other)
    recorded = -section[f"{name}/RANSAC"]
    true = bool(recorded.min() > 0.2)
    by_inliers = scored(query, other, "ransac")
    off = np.abs(by_inliers - recorded) * counts
    assert (off <= (0.01 * counts if true else 10)).all(), name
    inliers = section[f"{name}/ransac_inliers"]
    if len(inliers):  # with too few pairs there was no RANSAC
        np.testing.assert_allclose(inliers, recorded * counts, atol=1e-6)
    section.check(f"{name}/spatialApproximator", -scored(query, other, "spatial"), 0, rtol=1e-4 if true else 5e-3)
    return true


def check_order(
    section: Section,
    name: str,
    text: str,
    given: Callable[[str, Sequence[int]], PatchFeatures],
    true: Mapping[int, set[int]],
) -> None:
    """A whole re-ranking, as the json describes it: "RANSAC, sizes 2,5,8, weights 0.45,0.15,0.4"."""
    said = re.fullmatch(r"(\w+), sizes? ([\d,]+), weights? ([\d.,]+)", text)
    assert said, text
    sizes, weights = ([*map(float, part.split(","))] for part in said.groups()[1:])
    by_inliers = said[1] == "RANSAC"
    rows = section["rerank/in_predictions"].astype(np.int64)
    database = [given(f"db{i}", [int(size) for size in sizes]) for i in range(rows.max() + 1)]
    queries = [given(f"query{i}", [int(size) for size in sizes]) for i in range(len(rows))]
    scoring = "ransac" if by_inliers else "spatial"
    reranker = PatchReranker(Rerank(patch_weights=tuple(weights), scoring=scoring, as_published=True), CPU)
    before = Ranking(rows, np.tile(np.linspace(1, 0, rows.shape[1], dtype=np.float32), (len(rows), 1)))
    after = reranker.rerank(before, queries, database)
    expected, combined = section[f"rerank/{name}_order"], np.sort(section[f"rerank/{name}_combined64"], axis=1)
    same_opencv = cv2.__version__ == section.facts["opencv"]
    for query, (ours, theirs) in enumerate(zip(after.rows, expected, strict=True)):
        sure = len(true.get(query, ())) if by_inliers and not same_opencv else len(theirs)
        assert ours[:sure].tolist() == theirs[:sure].tolist(), f"{name}, query {query}"
    ours = after.scores.astype(np.float64)
    if len(sizes) == 1:  # one size needs no fusion, so that our scores are those of the pairs
        ours = np.stack([fuse(each[:, None], [1.0]) for each in ours])
    np.testing.assert_allclose(-ours, combined, atol=1e-6 if same_opencv or not by_inliers else 0.1)
    alone = reranker.rerank(Ranking(rows[:, :1], np.ones((len(rows), 1), np.float32)), queries, database)
    assert np.array_equal(alone.rows, section["rerank/single_candidate_order"])


@pytest.mark.parametrize("section", sections("netvlad_hloc"))
def test_netvlad_of_hloc(section: Section, tmp_path: Path) -> None:
    name, _, whitened = section.name.partition(" ")
    case, tolerance, shapes = section.file.case(name), section.facts["tolerance"], section.facts["shapes"]
    if not whitened:
        shapes = {key: shape for key, shape in shapes.items() if not key.startswith("layers.33")}
    state = {key: value.numpy() for key, value in golden.state_of(section, shapes).items()}
    path = save_struct(tmp_path / "net.mat", state, np.array(section.facts["average_image"]))
    model = netvlad_mat.build(netvlad_mat.Settings(weights=path, whiten=bool(whitened)), CPU)
    scenes = [f"hloc{name}:{i}" for i in range(case["images"])]
    recipe, seed = section.file.recipe, section.file.seed
    images = [model.preprocess(recipe.synth_image(seed, each, *case["size"], 3, shapes=70)) for each in scenes]
    with section.compared(), torch.inference_mode():
        if whitened:
            section.check(f"{name}/global_descriptor", model.describe(images), tolerance["global_descriptor"])
            return
        maps = torch.cat([each for _, each in model.backbone.maps(images)])
        section.check(f"{name}/backbone", maps, tolerance["backbone"])
        section.check(f"{name}/vlad", model.describe(images), tolerance["vlad"])


# ---------------------------------------------------------------- whitening


@pytest.mark.parametrize("section", sections("pca_whitening"))
def test_pca_whitening(section: Section) -> None:
    """Patch-NetVLAD's add_pca.py; the signs of its directions are arbitrary."""
    name, tolerance = section.name, section.facts["tolerance"]
    train, query = section[f"{name}/in_train64"], section[f"{name}/in_query64"]
    whitening = fit_whitening(train, section.file.case(name)["pcs"])
    projected = query @ whitening.weight.T + whitening.bias
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    with section.compared():
        section.check(f"{name}/eigenvalues64", whitening.variances, tolerance["eigenvalues"])
        section.check(f"{name}/mean64", train.mean(axis=0), tolerance["mean"])
        section.check(f"{name}/abs_projection64", np.abs(projected), tolerance["abs_projection"])
        section.check(f"{name}/gram64", unit @ unit.T, tolerance["gram"])
        section.check(f"{name}/weight_gram64", whitening.weight.T @ whitening.weight, 0, rtol=1e-6)
        assert str(whitening.weight.dtype) == str(section[f"{name}/weight_dtype"])
        applied = whitening.apply(query.astype(np.float32))  # what descriptors go through, in single precision
        assert np.abs(applied @ applied.T - section[f"{name}/gram64"]).max() < 1e-4
