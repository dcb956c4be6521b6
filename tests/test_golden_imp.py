"""IMP and EIMP against what the published networks gave with the same weights: see tests/golden.py."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import numpy as np
import pytest
import torch
from golden import GoldenFile, Section, Sections, by_prefix, checkpoint
from torch import Tensor

from vpr.config import parse
from vpr.core import LocalFeatures, Matches
from vpr.matchers import MATCHERS
from vpr.matchers.imp import Imp, IterativeImp
from vpr.matchers.imp_fast import GraphSide, Listened
from vpr.matchers.imp_matching import assigned, assigning, match_sides
from vpr.matchers.imp_network import ImpNetwork, shares
from vpr.matchers.imp_pooling import may_pool, pool
from vpr.matchers.one_to_many import mutual_partners
from vpr.matchers.points import stack
from vpr.relative_pose import Pose, epipolar_errors, essential_matrix, normalised, pose_error_deg

CPU = torch.device("cpu")


def split(file: GoldenFile) -> Sections:
    cases = by_prefix(file, sorted({name.partition("/")[0] for name in file.arrays if "/" in name}))
    return {"inputs" if not name else name: names for name, names in cases.items()}


def sections(only: str) -> list[Any]:
    return golden.sections(split, "imp", only)


def features_of(section: Section) -> list[LocalFeatures]:
    height, width = section.facts["setup"]["size"]
    found = []
    for i in (0, 1):
        given = (section[f"in_{name}{i}"].astype(np.float32) for name in ("keypoints", "scores", "descriptors"))
        found.append(LocalFeatures(*(torch.from_numpy(each) for each in given), (width, height)))
    return found


def settings_of(section: Section, name: str, text: str) -> dict[str, Any]:
    """Our settings for what the json says of a case."""
    config = section.facts["config"]
    said = dict(re.findall(r"(nI|match_ratio|min_kpts|error_th|stop pose|p)[ =]([\d.]+)", text))
    settings: dict[str, Any] = {
        "sinkhorn_iterations": config["sinkhorn_iterations"],
        "iterations": int(said.get("nI", config["n_layers"])),
        "match_threshold": float(said.get("p", config["match_threshold"])),
        "assignment": "dual_softmax" if "with_sinkhorn False" in text or not config["with_sinkhorn"] else "sinkhorn",
    }
    if name.startswith("eimp"):
        settings["min_keypoints"] = config["n_min_tokens"]
    if name == "eimp":
        settings["pooling"] = "mask"
    if name.endswith("iterative"):
        keys = {
            "pose_threshold": "match_ratio",
            "min_matches": "min_kpts",
            "max_error": "error_th",
            "stop_deg": "stop pose",
        }
        settings |= {key: float(said[other]) for key, other in keys.items()}
        settings["min_matches"] = int(settings["min_matches"])
    return settings


def build(section: Section, name: str, folder: Path, text: str) -> Any:
    shapes = section.facts["shapes"]["EIMP" if name.startswith("eimp") else "IMP"]
    torch.save({"model": torch.load(checkpoint(section, folder, shapes), weights_only=True)}, folder / "published.pth")
    given = {"method": name, "weights": str(folder / "published.pth"), **settings_of(section, name, text)}
    return MATCHERS[name].build(parse(MATCHERS[name].settings, given), CPU)


def said_of(section: Section) -> str:
    outputs = section.facts["outputs"]
    text = str(outputs.get(section.name, outputs["eimp_all"]))  # eimp_run has no sentence of its own
    return f"{outputs['imp_iterative']}; {text}" if "same settings" in text else text


@pytest.mark.parametrize("section", sections("inputs"))
def test_the_true_matches_of_the_inputs_obey_the_pose(section: Section) -> None:
    first, second = features_of(section)
    intrinsics, pose, partner = section["in_K64"], section["in_pose64"], section["in_gt0"]
    with section.compared():
        rows = np.flatnonzero(partner >= 0)
        rays = (
            normalised(first.keypoints[rows].double().numpy(), intrinsics),
            normalised(second.keypoints[partner[rows]].double().numpy(), intrinsics),
        )
        errors = epipolar_errors(*rays, essential_matrix(Pose(pose[:, :3], pose[:, 3])))
        assert intrinsics[0, 0] == section.facts["setup"]["f"]
        assert np.median(errors) * intrinsics[0, 0] < 2


def check_partners(section: Section, row: int, probabilities: Tensor, threshold: float) -> None:
    """(1, M, N) against indices and scores of every mutual pair."""
    partner, best = (each[0] for each in mutual_partners(probabilities))
    scores = torch.where(partner >= 0, best, 0)
    expected = section[f"{section.name}/indices0"][row]
    assert torch.where(scores > threshold, partner, -1).tolist() == expected.tolist(), f"iteration {row}"
    np.testing.assert_allclose(
        scores.numpy(), section[f"{section.name}/mscores0"][row], rtol=0, atol=section.facts["tolerance"]["mscores"]
    )


def check_found(found: Matches, expected: np.ndarray) -> None:
    rows = np.flatnonzero(expected >= 0)
    assert found.pairs.tolist() == np.stack([rows, expected[rows]], axis=1).tolist()


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("imp_(all|last|dual)"))
def test_imp(section: Section, tmp_path: Path) -> None:
    name, tolerance, text = section.name, section.facts["tolerance"], said_of(section)
    method = build(section, "imp", tmp_path, text)
    assert isinstance(method, Imp)
    query, candidate = features_of(section)
    batches = [stack([each], ImpNetwork.reach, CPU) for each in (query, candidate)]
    plain = ImpNetwork(sinkhorn_iterations=method.settings.sinkhorn_iterations)
    plain.load_state_dict(plain.convert_state_dict(torch.load(method.settings.weights, weights_only=True)["model"]))
    recorded = section[f"{name}/indices0"]
    with section.compared():
        check_found(method.match(query, [candidate])[0], recorded[-1])
        iterations = range(method.iterations)[-len(recorded) :]
        similarities, fast = list(plain.similarities(*batches)), list(fast_similarities(method, batches))
        threshold = method.settings.match_threshold
        for row, iteration in enumerate(iterations):
            for similarity in (similarities[iteration], fast[iteration]):
                scores = method.assign(similarity, plain.bin_score, None, None)
                check_partners(section, row, scores[:, :-1, :-1], threshold)
                for array in {0: ["score_first"], len(recorded) - 1: ["score_last", "score"]}.get(row, []):
                    if f"{name}/{array}" in section:
                        section.check(f"{name}/{array}", scores, tolerance["score"])
                if row == len(recorded) - 1 and f"{name}/dist_last" in section:
                    section.check(f"{name}/dist_last", similarity, tolerance["dist"])


def fast_similarities(method: Imp, batches: list[Any]) -> Iterator[Tensor]:
    """Of the fast form, after each iteration."""
    side0, side1 = (method.network.encode(each) for each in batches)
    listened: tuple[Listened, ...] = ()
    for iteration in range(method.iterations):
        side0, side1, listened = method.network.iterate(iteration, side0, side1, listened)
        yield method.network.similarity(iteration, side0, side1)


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("eimp_(all|run)"))
def test_eimp(section: Section, tmp_path: Path) -> None:
    name = section.name
    method = build(section, "eimp", tmp_path, said_of(section))
    query, candidate = features_of(section)
    (found,) = method.match(query, [candidate])
    with section.compared():
        if name == "eimp_run":
            assert found.pairs[:, 0].tolist() == section[f"{name}/index0"].tolist()
            assert found.pairs[:, 1].tolist() == section[f"{name}/index1"].tolist()
            return
        check_found(found, section[f"{name}/indices0"][-1])
        sides = [method.network.encode(stack([each], ImpNetwork.reach, CPU)) for each in (query, candidate)]
        sizes = len(query), len(candidate)
        listened: tuple[Listened, ...] = ()
        for iteration in range(method.iterations):
            *sides, listened = method.network.iterate(iteration, *sides, listened)
            assert [int(each.alive().sum()) for each in sides] == section[f"{name}/tokens"][iteration].tolist()
            scores = assigned(method.network, iteration, *sides, method.assign)
            check_partners(section, iteration, scores, method.settings.match_threshold)
            if shares(iteration) and may_pool(*sides, method.pooling):
                sides = list(pool((sides[0], sides[1]), scores, listened, method.pooling, sizes))
        section.check(f"{name}/score_last", of_survivors(method, sides), section.facts["tolerance"]["score"])


def of_survivors(method: Imp, sides: list[GraphSide]) -> Tensor:
    """The last assignment with its dustbins, of what was left alone."""
    similarity = method.network.similarity(method.iterations - 1, *sides)
    rows, columns = (each.alive()[0] for each in sides)
    return assigning("sinkhorn", method.settings.sinkhorn_iterations)(
        similarity[:, rows][:, :, columns], method.network.bin_score, None, None
    )


@pytest.mark.parametrize("section", sections("e?imp_iterative"))
def test_iterative_matching(section: Section, tmp_path: Path) -> None:
    name = section.name
    method = build(section, name, tmp_path, said_of(section))
    assert isinstance(method, IterativeImp)
    first, second = features_of(section)
    points = first.keypoints.double().numpy(), second.keypoints.double().numpy()
    found = method.match_calibrated(first, second, points, (section["in_K64"],) * 2)
    with section.compared():
        iterations = int(section[f"{name}/iterations"])
        assert abs(found.iterations - iterations) <= 2
        truth = Pose(section[f"{name}/R64"].reshape(3, 3), section[f"{name}/t64"].reshape(3))
        assert pose_error_deg(found.pose, truth) < 0.5
        expected = section[f"{name}/indices0"]
        left = [section[f"{name}/points{i}"] for i in (0, 1) if f"{name}/points{i}" in section]
        if found.iterations != iterations:
            return
        rows, columns = found.index
        for ours, theirs in zip((first.keypoints[rows], second.keypoints[columns]), left, strict=False):
            assert np.array_equal(ours.numpy(), theirs)
        every = np.full(len(first), -1)
        every[found.matches.pairs[:, 0]] = found.matches.pairs[:, 1]
        ours = np.where(every[rows] < 0, -1, np.searchsorted(columns.numpy(), every[rows]))
        assert ours.tolist() == expected.tolist()


@torch.inference_mode()
@pytest.mark.parametrize("section", sections("imp_last"))
def test_any_number_of_iterations_comes_from_one_model(section: Section, tmp_path: Path) -> None:
    """What the matcher says after 5 iterations is what the network's fifth head says."""
    query, candidate = features_of(section)
    method = build(section, "imp", tmp_path, "nI 5 p=0.2")
    sides = [method.network.encode(stack([each], ImpNetwork.reach, CPU)) for each in (query, candidate)]
    scores = match_sides(method.network, *sides, 5, method.assign, pooling=None)
    expected = section.file.arrays["imp_all/indices0"][4]
    partner, best = (each[0] for each in mutual_partners(scores))
    assert torch.where((partner >= 0) & (best > 0.2), partner, -1).tolist() == expected.tolist()
