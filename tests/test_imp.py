import numpy as np
import pytest
import torch
from published import CPU, alike, plain, random_features, randomise, same_matches

from vpr.config import parse
from vpr.core import ConfigError, DataError, LocalFeatures
from vpr.matchers import MATCHERS, eimp, imp
from vpr.matchers.imp_assignment import assignment, dual_softmax
from vpr.matchers.imp_fast import FastImp
from vpr.matchers.imp_matching import assigning, match_sides
from vpr.matchers.imp_network import ImpNetwork, OwnLayer, SharingLayer, shares
from vpr.matchers.imp_pooling import Pooling
from vpr.matchers.points import stack
from vpr.relative_pose import Pose, pose_error_deg
from vpr.weights import WeightsError

REACH = ImpNetwork.reach
SINKHORN = assigning("sinkhorn", 20)


def small(seed=0, iterations=6):
    """Weights with which about half the points of two views match."""
    network = randomise(ImpNetwork((8, 16, 32), iterations), seed)
    for layer in network.gnn.layers:
        layer.mlp[-1].weight.data *= 0.1
        if isinstance(layer, OwnLayer):
            layer.attn.proj[0].weight.data *= 3
    network.kenc.encoder[-1].weight.data *= 0.02
    for head in network.final_proj:
        head.weight.data = 8 * torch.eye(32)[..., None]
        head.bias.data *= 0
    network.bin_score.data = torch.tensor(6.0)
    return network


def matcher(network=None, **settings):
    return imp.Imp(network or small(), "", imp.Settings(**settings), CPU)


def test_parameters_of_the_published_size():
    assert sum(each.numel() for each in ImpNetwork().parameters()) == 19_231_809


def test_which_iterations_share_attention():
    assert [shares(each) for each in range(9)] == [False, False, False, True, False, True, False, True, False]
    kinds = [type(each) for each in small(iterations=5).gnn.layers]
    assert kinds == [OwnLayer] * 6 + [SharingLayer] * 2 + [OwnLayer] * 2


def by_loops(similarity, bin_score, iterations):
    """Sinkhorn's iterations on probabilities, one number after the other."""
    m, n = similarity.shape
    scores = np.full((m + 1, n + 1), float(bin_score))
    scores[:m, :n] = similarity
    kernel = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    u, v = np.ones(m + 1), np.ones(n + 1)
    for _ in range(iterations):
        for i in range(m + 1):
            u[i] = (m + 1 if i == m else 1) / (sum(kernel[i, j] * v[j] for j in range(n + 1)) + 1e-8)
        for j in range(n + 1):
            v[j] = (n + 1 if j == n else 1) / (sum(kernel[i, j] * u[i] for i in range(m + 1)) + 1e-8)
    return kernel * u[:, None] * v[None]


def test_the_assignment_is_that_of_loops_also_where_padded():
    random = torch.Generator().manual_seed(0)
    similarity = 3 * torch.randn(2, 4, 5, generator=random)
    rows, columns = (
        torch.tensor([[True] * 4, [True, True, False, False]]),
        torch.tensor([[True] * 5, [True] * 3 + [False] * 2]),
    )
    found = assignment(similarity, torch.tensor(1.0), 7, rows, columns)
    for each, row, column, ours in zip(similarity, rows, columns, found, strict=True):
        expected = by_loops(each[row][:, column].numpy(), 1.0, 7)
        kept = ours[[*row.nonzero()[:, 0].tolist(), 4]][:, [*column.nonzero()[:, 0].tolist(), 5]]
        np.testing.assert_allclose(kept.numpy(), expected, atol=1e-5)
        assert (ours[:-1][~row] == 0).all() and (ours[:, :-1][:, ~column] == 0).all()


def test_the_dual_softmax_by_hand_also_where_padded():
    similarity = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]])
    scores = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 0.5], [0.5, 0.5, 0.5]])
    expected = scores.softmax(1) * scores.softmax(0)
    torch.testing.assert_close(dual_softmax(similarity, torch.tensor(0.5))[0], expected)
    padded = torch.nn.functional.pad(similarity, (0, 3, 0, 2), value=9.0)
    rows, columns = (torch.arange(size)[None] < 2 for size in (4, 5))
    found = dual_softmax(padded, torch.tensor(0.5), rows, columns)[0]
    torch.testing.assert_close(found[[0, 1, -1]][:, [0, 1, -1]], expected)


@torch.inference_mode()
@pytest.mark.parametrize("iterations", [1, 4, 6])
def test_the_fast_form_is_the_same_function_also_where_padded(iterations):
    network = small()
    firsts = stack([random_features(count, 32, seed=count) for count in (20, 11, 2)], REACH, CPU)
    seconds = stack([random_features(count, 32, seed=count) for count in (7, 30, 12)], REACH, CPU)
    fast = FastImp(network, CPU)
    ours = match_sides(fast, fast.encode(firsts), fast.encode(seconds), iterations, SINKHORN, pooling=None)
    expected = network(firsts, seconds)[iterations - 1][:, :-1, :-1]
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-5)


@torch.inference_mode()
def test_an_attention_that_is_computed_again_is_the_one_that_is_kept():
    fast, sides = FastImp(small(), CPU), {}
    query, candidates = random_features(40, 32, 0), [random_features(count, 32, count) for count in (30, 20)]
    for probabilities in (True, False):
        one = fast.encode(stack([query], REACH, CPU)).repeated(2)
        other, listened = fast.encode(stack(candidates, REACH, CPU)), ()
        for iteration in range(6):
            one, other, listened = fast.iterate(iteration, one, other, listened, probabilities=probabilities)
        sides[probabilities] = one.x, other.x[other.mask]
    for kept, again in zip(*sides.values(), strict=True):
        torch.testing.assert_close(again, kept, rtol=0, atol=5e-5)


def test_training_reaches_every_parameter():
    network = small().train()
    query = random_features(16, 32, seed=0)
    sides = [stack([each, each.part(torch.arange(9))], REACH, CPU) for each in (query, alike(query, 16, seed=1))]
    sum((each[:, :9] + 1e-6).log().square().sum() for each in network(*sides)).backward()
    cancelled = ("attn.proj.1.bias", "attn.proj.2.bias", "merge.bias", "mlp.0.bias", ".proj.bias")
    inside = ("kenc.encoder.0.bias", "kenc.encoder.3.bias")
    without = [name for name, each in network.named_parameters() if each.grad is None or each.grad.abs().max() < 1e-7]
    assert [name for name in without if not name.endswith(cancelled) and name not in inside] == []
    assert all(each.grad.isfinite().all() for each in network.parameters())


def test_fewer_iterations_than_the_weights_have():
    query = random_features(30, 32, seed=0)
    candidate = alike(query, 30, seed=1)
    found = [matcher(iterations=each, match_threshold=0.0).match(query, [candidate])[0] for each in (0, 6, 2)]
    assert same_matches(found[0], found[1], 0)
    assert not torch.equal(found[0].scores, found[2].scores)
    with pytest.raises(ConfigError, match="iterations = 7: these weights have 6"):
        matcher(iterations=7)


def crowd(count, seed):
    """Two views of which a quarter has no partner, so that there is something to leave out."""
    query = random_features(count, 32, seed)
    return query, alike(query, count, seed + 1, noise=0.1)


@torch.inference_mode()
@pytest.mark.parametrize("form", ["drop", "mask"])
def test_pooled_sets_of_a_batch_are_those_of_single_pairs(form):
    """Also where pairs lose unequally many points, and one none."""
    fast = FastImp(small(), CPU)
    query, first = crowd(60, seed=0)
    candidates = [
        first,
        alike(query, 45, seed=5, noise=0.1),
        random_features(20, 32, seed=9),
        random_features(5, 32, seed=3),
    ]
    pooling = Pooling(0.5, min_keypoints=12, form=form)
    mine = fast.encode(stack([query], REACH, CPU))
    together = match_sides(fast, mine, fast.encode(stack(candidates, REACH, CPU)), 6, SINKHORN, pooling=pooling)
    gone = []
    for each, candidate in zip(together, candidates, strict=True):
        alone = match_sides(fast, mine, fast.encode(stack([candidate], REACH, CPU)), 6, SINKHORN, pooling=pooling)[0]
        torch.testing.assert_close(each[:, : len(candidate)], alone, rtol=0, atol=5e-5)
        assert (each[:, len(candidate) :] == 0).all()
        gone.append(int((alone.sum(1) == 0).sum()))
    assert max(gone) > 5 and len(set(gone)) > 1


@torch.inference_mode()
def test_pooling_keeps_the_matches_that_matter():
    query, candidate = crowd(80, seed=0)
    every = matcher().match(query, [candidate])[0]
    some = imp.Imp(small(), "", eimp.Settings(), CPU, pooling=Pooling(0.1, 20)).match(query, [candidate])[0]
    mine, theirs = ({tuple(pair) for pair in each.pairs.tolist()} for each in (every, some))
    assert len(mine & theirs) > 0.8 * len(mine) > 20


def posed(count, seed, wrong=0.0):
    """Keypoints of one scene in two cameras with the focal length of the settings, and the true pose."""
    random = np.random.default_rng(seed)
    size, focal = (640, 480), 1.2 * 640
    points = random.uniform([-2, -1.5, 4], [2, 1.5, 9], (count, 3))
    angle = 0.15
    rotation = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    translation = np.array([-1.0, 0.1, 0.2])
    moved = points @ rotation.T + translation
    centre = np.array([319.5, 239.5])
    pixels = [focal * each[:, :2] / each[:, 2:] + centre for each in (points, moved)]
    lost = random.random(count) < wrong
    pixels[1][lost] = random.uniform([0, 0], size, (int(lost.sum()), 2))
    descriptors = torch.nn.functional.normalize(torch.from_numpy(random.normal(size=(count, 32))).float(), dim=1)
    sides = [
        LocalFeatures(torch.from_numpy(each).float(), torch.full((count,), 0.5), descriptors, size) for each in pixels
    ]
    return sides, Pose(rotation, translation)


def pixels(*images):
    return tuple(each.keypoints.double().numpy() for each in images)


def iterative(settings=None, **how):
    return imp.IterativeImp(small(iterations=8), "", settings or imp.ImpIterativeSettings(), CPU, **how)


@pytest.mark.parametrize("how", [{}, {"pooling": Pooling(0.2, 40), "uncertainty": True}])
def test_iterative_matching_stops_early_with_the_pose_and_its_inliers(how):
    (query, candidate), truth = posed(120, seed=0, wrong=0.2)
    method = iterative(**how)
    camera = np.array([[768.0, 0, 319.5], [0, 768, 239.5], [0, 0, 1]])
    found = method.match_calibrated(query, candidate, pixels(query, candidate), (camera, camera))
    assert found.iterations == 6
    assert pose_error_deg(found.pose, truth) < 0.5
    assert 60 < len(found.matches) < 110
    assert (found.matches.pairs[:, 0] == found.matches.pairs[:, 1]).float().mean() > 0.98
    assert same_matches(method.match(query, [candidate])[0], found.matches, 0)
    never = iterative(imp.ImpIterativeSettings(stop_deg=0)).match_calibrated(
        query, candidate, pixels(query, candidate), (camera, camera)
    )
    assert never.iterations == 8 and len(never.matches) > len(found.matches)


def test_iterative_matching_without_enough_matches_has_no_pose():
    (query, candidate), _ = posed(20, seed=1)
    camera = np.eye(3)
    found = iterative().match_calibrated(query, candidate, pixels(query, candidate), (camera, camera))
    assert found.pose is None and found.iterations == 8 and len(found.matches) > 5
    nothing = LocalFeatures.empty(32)
    assert (
        len(iterative().match_calibrated(nothing, candidate, pixels(nothing, candidate), (camera, camera)).matches) == 0
    )


def test_weights_of_any_size_are_read_also_under_the_published_key(tmp_path):
    network = small(iterations=5)
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    query = random_features(30, 32, seed=0)
    candidates = [alike(query, 25, seed=1)]
    method = imp.build(imp.Settings(weights=str(tmp_path / "mine.pth")), CPU)
    assert len(method.weights) == 64 and method.iterations == 5
    assert same_matches(method.match(query, candidates)[0], matcher(network).match(query, candidates)[0], 0)


def test_other_weights_and_other_features_are_refused(tmp_path):
    torch.save({"bin_score": torch.tensor(1.0)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="ImpNetwork"):
        imp.build(imp.Settings(weights=str(tmp_path / "other.pth")), CPU)
    for method in (matcher(), iterative()):
        with pytest.raises(DataError, match="IMP take descriptors of length 32, the local features have 128"):
            method.match(random_features(3, 32, seed=0), [random_features(3, 128, seed=0)])


@torch.inference_mode()
def test_half_precision_stays_near():
    network = small()
    query = random_features(40, 32, seed=0)
    sides = [stack([each], REACH, CPU) for each in (query, alike(query, 33, seed=1))]
    half = FastImp(network, CPU, torch.bfloat16)
    ours = match_sides(half, *map(half.encode, sides), 6, SINKHORN, pooling=None)
    assert ours.dtype == torch.float32
    assert (ours - network(*sides)[-1][:, :-1, :-1]).abs().max() < 0.1


def scored(found):
    return {tuple(pair): score for pair, score in zip(found.pairs.tolist(), found.scores.tolist(), strict=True)}


def differ(one, other):
    return scored(one) != scored(other)


def fewer(every, some):
    return 0 < len(some) < len(every) and scored(some).items() <= scored(every).items()


AGREEMENT = {"search_expansion": 16.0, "min_inliers": 4}
GRAPH_SETTINGS = {
    "iterations": ({}, {"iterations": 3}, differ),
    "assignment": ({}, {"assignment": "dual_softmax"}, differ),
    "sinkhorn_iterations": ({}, {"sinkhorn_iterations": 1}, differ),
    "match_threshold": ({"match_threshold": 0.0}, {"match_threshold": 0.8}, fewer),
}
AGREEING = {"agreement": ({"match_threshold": 0.0}, {"agreement": AGREEMENT}, differ)}
NEVER = {"stop_deg": 0.0, "match_threshold": 0.5}
POSE_SETTINGS = {
    "pose_threshold": ({}, {"pose_threshold": 0.9}, lambda a, b: 0 < len(b) < len(a)),
    "min_matches": ({}, {"min_matches": 200}, differ),
    "max_error": ({}, {"max_error": 1000.0}, lambda a, b: len(b) > len(a)),
    "stop_deg": ({}, NEVER, differ),
    "focal": ({}, {"focal": 5.0}, differ),
}
POOLED_SETTINGS = {
    "pooling_threshold": ({"min_keypoints": 20}, {"pooling_threshold": 0.9}, differ),
    "min_keypoints": ({"min_keypoints": 200}, {"min_keypoints": 20, "pooling_threshold": 0.9}, differ),
}
SETTINGS = {
    "imp": GRAPH_SETTINGS | AGREEING,
    "eimp": GRAPH_SETTINGS
    | AGREEING
    | POOLED_SETTINGS
    | {"pooling": ({"min_keypoints": 20, "pooling_threshold": 0.9}, {"pooling": "mask"}, differ)},
    "imp_iterative": GRAPH_SETTINGS | POSE_SETTINGS,
    "eimp_iterative": GRAPH_SETTINGS
    | POSE_SETTINGS
    | {key: (base | NEVER, change, holds) for key, (base, change, holds) in POOLED_SETTINGS.items()}
    | {"uncertainty": ({"min_keypoints": 20, "pooling_threshold": 0.9, **NEVER}, {"uncertainty": False}, differ)},
}
NO_POSE = {"min_matches": 500}  # so that the settings of the graph decide
ROWS = [(method, key) for method, of_method in SETTINGS.items() for key in of_method]


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_settings(tmp_path, row):
    """Each changes the answer as the third says."""
    method, key = row
    base, change, holds = SETTINGS[method][key]
    if method.endswith("iterative") and key in GRAPH_SETTINGS:
        base = base | NO_POSE
    torch.save(small(iterations=8).state_dict(), tmp_path / "weights.pth")
    table = MATCHERS[method]
    (query, candidate), _ = posed(120, seed=0, wrong=0.3)
    found = []
    for settings in (base, base | change):
        given = {"method": method, "weights": str(tmp_path / "weights.pth"), **settings}
        found += table.build(parse(table.settings, given), CPU).match(query, [candidate])
    assert holds(*found)


def test_every_setting_is_here():
    for method, of_method in SETTINGS.items():
        assert of_method.keys() == set(MATCHERS[method].settings.model_fields) - {"method", "weights", "precision"}


@torch.inference_mode()
def test_equals_the_plain_procedure():
    network = small()
    query = random_features(41, 32, seed=1)
    candidate = alike(query, 36, seed=2)
    theirs = [plain.Points(each.keypoints, each.scores, each.descriptors.T) for each in (query, candidate)]
    expected = plain.imp(network.state_dict(), *theirs, (query.image_size, candidate.image_size))
    ours = network(*(stack([each], REACH, CPU) for each in (query, candidate)))[-1][0]
    torch.testing.assert_close(ours, expected, rtol=0, atol=5e-5)
