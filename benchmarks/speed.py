"""How fast each stage is on whatever device is here, against the same networks as their papers write them down.

    python benchmarks/speed.py --out benchmarks/results/NAME.json [--device cuda] [--only matching sinkhorn]

Weights and features are random but fixed, since time does not depend on their values: 640x480 images, 1024 points of
256 numbers. Variants of one measurement take turns, so that a busy machine slows all of them alike; given are medians
over the rounds, with the spread from first to third quartile, and the ratio to the plain one. Results are compared as
well: a fast wrong answer does not count.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import plain
import torch
from torch import Tensor, nn

from vpr.core import LocalFeatures, Matches
from vpr.index import build_index
from vpr.local_features.superpoint import Settings as SuperPointSettings
from vpr.local_features.superpoint import SuperPoint
from vpr.local_features.superpoint_network import SuperPointNetwork
from vpr.matchers.imp import Imp
from vpr.matchers.imp import Settings as ImpSettings
from vpr.matchers.imp_network import ImpNetwork
from vpr.matchers.imp_pooling import Pooling
from vpr.matchers.sinkhorn import log_assignment
from vpr.matchers.superglue import Settings as SuperGlueSettings
from vpr.matchers.superglue import SuperGlue
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.rerank import VERIFIERS
from vpr.rerank.verification import Settings as Geometry
from vpr.runtime import device as machine
from vpr.runtime.files import write_json
from vpr.runtime.threads import one_thread_each

POINTS, DIM, SIZE = 1024, 256, (640, 480)
Variants = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="*", choices=sorted(MEASUREMENTS), default=sorted(MEASUREMENTS))
    arguments = parser.parse_args()
    device = machine.device_of(arguments.device)
    about = machine.facts(shlex.join(["python", *sys.argv]), device)
    results: list[dict[str, Any]] = []
    for name in arguments.only:
        for row in MEASUREMENTS[name](device, arguments.rounds):
            results.append({"stage": name, **row})
            print(line(results[-1]), flush=True)
            write_json(arguments.out, {**about, "threads": torch.get_num_threads(), "results": results})
    print(arguments.out)


def line(row: dict[str, Any]) -> str:
    ratio = f"{row['ratio']:6.2f} x" if "ratio" in row else " " * 8
    spread = f"{row['quartiles_ms'][0]:.3g}-{row['quartiles_ms'][1]:.3g}"
    return (
        f"{row['stage']:13} {row['what']:44} {row['variant']:28} {row['ms']:10.3f} ms ({spread})  {ratio} {row['note']}"
    )


def take_turns(
    what: str,
    variants: Variants,
    device: torch.device,
    rounds: int,
    *,
    per: int = 1,
    note: dict[str, str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Time the variants in turn; ``per`` items per call. The first variant is what the others are compared with."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()  # warm up
    for _ in range(rounds):
        for name, call in variants.items():
            synchronise(device)
            started = time.perf_counter()
            call()
            synchronise(device)
            times[name].append((time.perf_counter() - started) / per * 1e3)
    first = next(iter(variants))
    for name, each in times.items():
        low, _, high = statistics.quantiles(each, n=4)
        row = {
            "what": what,
            "variant": name,
            "ms": statistics.median(each),
            "quartiles_ms": [low, high],
            "rounds": rounds,
            "note": (note or {}).get(name, ""),
        }
        if len(variants) > 1:
            row["ratio"] = statistics.median(one / other for one, other in zip(times[first], each, strict=True))
        yield row


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def randomised(network: nn.Module) -> nn.Module:
    """Fixed random weights of such a size that signals neither vanish nor explode."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            fan_in = module.weight[0].numel()
            module.weight.data = torch.randn(module.weight.shape, generator=random) * (2 / fan_in) ** 0.5
    return network.eval()


def precisions(device: torch.device) -> list[str]:
    """Formats that are worth measuring here."""
    if device.type == "cuda":
        return ["fp32", "tf32", "bf16", "fp16"]
    return ["fp32", "bf16"] if torch.cpu._is_avx512_bf16_supported() else ["fp32"]


# --- extraction


def extraction(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    network = randomised(SuperPointNetwork())
    assert isinstance(network, SuperPointNetwork)
    random = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (1, SIZE[1], SIZE[0]), generator=random, dtype=torch.uint8) for _ in range(32)]
    weights = {name: value.to(device) for name, value in network.state_dict().items()}

    def one_by_one(count: int) -> list[plain.Points]:
        with torch.inference_mode():
            return [
                plain.superpoint(weights, image[None].to(device).float() / 255, threshold=0.0, most=POINTS)
                for image in images[:count]
            ]

    reference = one_by_one(2)
    for count in (1, 8, 32):
        variants: Variants = {"plain, one by one": partial(one_by_one, count)}
        notes = {}
        for precision in precisions(device):
            settings = SuperPointSettings(
                weights="superpoint_v1",
                keypoint_threshold=0.0,
                subpixel=False,
                max_keypoints=POINTS,
                precision=precision,
            )
            method = SuperPoint(network, "", settings, device)
            variants[precision] = partial(method.extract, images[:count])
            same = [
                same_points(ours, theirs) for ours, theirs in zip(method.extract(images[:2]), reference, strict=True)
            ]
            notes[precision] = f"{100 * statistics.mean(same):.1f} % same points"
        yield from take_turns(
            f"SuperPoint {SIZE[0]}x{SIZE[1]}, {count} at a time", variants, device, rounds, per=count, note=notes
        )


def same_points(ours: LocalFeatures, theirs: plain.Points) -> float:
    mine, other = (
        {tuple(p) for p in points.cpu().round().int().tolist()} for points in (ours.keypoints, theirs.keypoints)
    )
    return len(mine & other) / max(1, len(other))


# --- matching


def random_features(seed: int) -> LocalFeatures:
    random = torch.Generator().manual_seed(seed)
    rows = nn.functional.normalize(torch.randn(POINTS, DIM, generator=random), dim=1)
    return LocalFeatures(
        torch.rand(POINTS, 2, generator=random) * torch.tensor(SIZE), torch.rand(POINTS, generator=random), rows, SIZE
    )


def view_of(features: LocalFeatures, seed: int) -> LocalFeatures:
    """The same points, moved a little, with noisy descriptors: something to match."""
    other = random_features(seed)
    rows = nn.functional.normalize(features.descriptors + 0.6 * other.descriptors, dim=1)
    return LocalFeatures(features.keypoints + 4, other.scores, rows, SIZE)


def as_plain(features: LocalFeatures, device: torch.device) -> plain.Points:
    return plain.Points(*(each.to(device) for each in (features.keypoints, features.scores, features.descriptors.T)))


def matching(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    network = randomised(SuperGlueNetwork())
    assert isinstance(network, SuperGlueNetwork)
    weights = {name: value.to(device) for name, value in network.state_dict().items()}
    query = random_features(0)
    candidates = [view_of(query, seed) for seed in range(1, 101)]
    few = 4 if device.type == "cpu" else 100

    def one_by_one(count: int) -> list[tuple[Tensor, Tensor]]:
        with torch.inference_mode():
            return [
                plain.matches(
                    plain.superglue(
                        weights, as_plain(query, device), as_plain(each, device), (SIZE, SIZE), iterations=20
                    )
                )
                for each in candidates[:count]
            ]

    reference = one_by_one(2)
    for count in sorted({1, few}):
        variants: Variants = {"plain, one by one": partial(one_by_one, count)}
        notes = {}
        for precision in precisions(device):
            method = SuperGlue(network, "", SuperGlueSettings(sinkhorn_iterations=20, precision=precision), device)
            variants[precision] = partial(method.match, query, candidates[:count])
            ours = method.match(query, candidates[:2])
            same = statistics.mean(same_matches(a, b) for a, b in zip(ours, reference, strict=True))
            notes[precision] = f"{100 * same:.1f} % same matches"
        what = f"SuperGlue {POINTS} x {POINTS}, 20 iterations, 1 x {count}"
        yield from take_turns(what, variants, device, rounds, per=count, note=notes)


def imp_matching(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    """IMP, and EIMP on the same weights: how many keypoints it leaves out depends on them."""
    network = matching_everything(ImpNetwork())
    weights = {name: value.to(device) for name, value in network.state_dict().items()}
    query = random_features(0)
    candidates = [half_of(view_of(query, seed), random_features(seed + 9)) for seed in range(1, 5)]

    def one_by_one(count: int) -> list[tuple[Tensor, Tensor]]:
        with torch.inference_mode():
            found = (
                plain.imp(weights, as_plain(query, device), as_plain(each, device), (SIZE, SIZE))
                for each in candidates[:count]
            )
            return [plain.matches(each.log()) for each in found]

    reference = one_by_one(2)
    for count in (1,) if device.type == "cpu" else (1, 4):
        variants: Variants = {"plain, one by one": partial(one_by_one, count)}
        notes = {}
        for name, pooling in (("IMP", None), ("EIMP", Pooling())):
            for precision in precisions(device):
                method = Imp(network, "", ImpSettings(precision=precision), device, pooling=pooling)
                variants[f"{name} {precision}"] = partial(method.match, query, candidates[:count])
                ours = method.match(query, candidates[:2])
                same = statistics.mean(same_matches(a, b) for a, b in zip(ours, reference, strict=True))
                notes[f"{name} {precision}"] = f"{100 * same:.1f} % same matches"
        what = f"IMP {POINTS} x {POINTS}, 15 iterations, 1 x {count}"
        yield from take_turns(what, variants, device, rounds, per=count, note=notes)


def half_of(view: LocalFeatures, other: LocalFeatures) -> LocalFeatures:
    """The view, of which every second point is of something else: without a partner."""
    chosen = torch.arange(POINTS) % 2 == 0
    parts = ((getattr(view, name), getattr(other, name)) for name in ("keypoints", "scores", "descriptors"))
    rows = (torch.where(chosen.view(-1, *[1] * (one.dim() - 1)), one, two) for one, two in parts)
    return LocalFeatures(*rows, SIZE)


def matching_everything(network: ImpNetwork) -> ImpNetwork:
    """Random weights that change the descriptors little, so that those alike match, as a trained network does."""
    randomised(network)
    for layer in network.gnn.layers:
        layer.mlp[-1].weight.data *= 0.03
    network.kenc.encoder[-1].weight.data *= 0.01
    for head in network.final_proj:
        head.weight.data = 18 * torch.eye(DIM)[..., None]
        torch.nn.init.zeros_(head.bias)
    network.bin_score.data = torch.tensor(9.0)
    return network


def same_matches(ours: Matches, theirs: tuple[Tensor, Tensor]) -> float:
    """Share of the points whose partner, or lack of one, is the same."""
    partner = torch.full((POINTS,), -1)
    partner[ours.pairs[:, 0]] = ours.pairs[:, 1]
    return float((partner == theirs[0].cpu().flatten()).float().mean())


def sinkhorn(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    random = torch.Generator().manual_seed(0)
    count = 4 if device.type == "cpu" else 64
    similarity = (3 * torch.randn(count, POINTS, POINTS, generator=random)).to(device)
    bin_score = torch.tensor(1.0, device=device)
    for iterations in (20, 100):

        def one_by_one(iterations: int = iterations) -> list[Tensor]:
            with torch.inference_mode():
                return [plain.log_sinkhorn(each, bin_score, iterations) for each in similarity]

        def ours(iterations: int = iterations) -> Tensor:
            with torch.inference_mode():
                return log_assignment(similarity, bin_score, iterations)

        away = float((ours()[0] - one_by_one()[0]).abs().max())
        yield from take_turns(
            f"Sinkhorn {POINTS}, {iterations} iterations, {count} pairs",
            {"log domain, one by one": one_by_one, "ours": ours},
            device,
            rounds,
            per=count,
            note={"ours": f"at most {away:.1e} away"},
        )


# --- verification, search, a whole query


def scene(random: np.random.Generator, matches: int, wrong: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of a scene in two views, some of them replaced at random."""
    points = random.uniform([-4, -3, 6], [4, 3, 14], (matches, 3))
    first = 500 * points[:, :2] / points[:, 2:] + [320, 240]
    moved = points + np.array([0.8, 0.1, 0.3])
    second = 500 * moved[:, :2] / moved[:, 2:] + [320, 240] + random.normal(0, 0.7, (matches, 2))
    lost = random.random(matches) < wrong
    second[lost] = random.uniform([0, 0], SIZE, (int(lost.sum()), 2))
    return first, second


def verification(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    pairs = [scene(random, 200, 0.9 if i % 10 else 0.4) for i in range(100)]
    for model in ("fundamental", "homography"):
        counts = {}
        variants: Variants = {}
        for method in ("poselib", "magsac", "accurate", "torch"):
            verifier = VERIFIERS[method].build(Geometry(method=method, model=model), device)
            if method == "torch":
                variants[method] = partial(verifier.verify, pairs)
            else:
                variants[f"{method}, threads"] = partial(in_threads, verifier.verify, pairs)
            counts[method] = np.array([each.inliers.sum() for each in verifier.verify(pairs)])
        near = {}
        for name in variants:
            apart = np.abs(counts[name.split(",")[0]] - counts["poselib"])
            near[name] = f"{100 * np.mean(apart <= 3):.0f} % within 3 of PoseLib"
        yield from take_turns(f"{model}, 200 matches, 100 pairs", variants, device, rounds, per=100, note=near)


def in_threads(verify: Callable[[Sequence[Any]], Any], pairs: Sequence[Any]) -> None:
    with one_thread_each(machine.threads_of(0)) as pool:
        list(pool.map(lambda pair: verify([pair]), pairs))


def search(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    for count in (10_000, 100_000):
        vectors = random.normal(size=(count, 512)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        exact = build_index(vectors, "Flat")
        variants: Variants = {"Flat": partial(exact.search, vectors[:32], 100)}
        if count >= 100_000:
            inverted = build_index(vectors, "IVF256,Flat")
            variants["IVF256,Flat nprobe=16"] = partial(inverted.search, vectors[:32], 100, "nprobe=16")
        yield from take_turns(f"{count} x 512, top 100, 32 queries", variants, device, rounds, per=32)


def query(device: torch.device, rounds: int) -> Iterator[dict[str, Any]]:
    """Re-ranking of one query's stored candidates: all of them, and as many as cost control leaves.

    ``benchmarks/cost.py`` says how many those are, and that recall does not suffer from it.
    """
    from vpr.core import Ranking
    from vpr.matchers import nearest
    from vpr.rerank import LocalReranker, cost
    from vpr.rerank.reranker import Settings as RerankSettings

    count, few = 100, 7
    network = randomised(SuperGlueNetwork())
    assert isinstance(network, SuperGlueNetwork)
    here = random_features(0)
    stored = [view_of(here, seed) for seed in range(1, count + 1)]
    shortlist = Ranking(np.arange(count)[None], -np.arange(count, dtype=np.float32)[None])
    variants: Variants = {}
    on_cpu = device.type == "cpu"
    geometry = Geometry(method="magsac" if on_cpu else "torch")
    for precision in precisions(device):
        matcher = SuperGlue(network, "", SuperGlueSettings(precision=precision), device)
        for name, control in (
            (f"{precision}, all", None),
            (f"{precision}, nearest first, {few} pairs", cost.Settings(order="nearest", budget_pairs=few)),
        ):
            reranker = LocalReranker(
                matcher,
                VERIFIERS[geometry.method].build(geometry, device),
                RerankSettings(k=count),
                geometry,
                control=control,
                prefilter=nearest.build(nearest.RATIO_ONLY, device) if control else None,
                threads=machine.threads_of(0) if on_cpu else 1,
                together=4 if on_cpu else 128,
                reads_ahead=not on_cpu,
            )
            variants[name] = partial(reranker.rerank, shortlist, [here], stored)
    rounds = min(rounds, 3) if on_cpu else rounds
    yield from take_turns(f"re-rank {count} candidates, {POINTS} points", variants, device, rounds)


MEASUREMENTS: dict[str, Callable[[torch.device, int], Iterator[dict[str, Any]]]] = {
    "extraction": extraction,
    "imp": imp_matching,
    "matching": matching,
    "query": query,
    "search": search,
    "sinkhorn": sinkhorn,
    "verification": verification,
}

if __name__ == "__main__":
    main()
