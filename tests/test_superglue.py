import pytest
import torch
from published import CPU, alike, plain, random_features, randomise, same_matches

from vpr.core import DataError
from vpr.matchers import superglue
from vpr.matchers.attention import attention
from vpr.matchers.points import stack
from vpr.matchers.superglue_fast import FastSuperGlue
from vpr.matchers.superglue_network import SuperGlueNetwork
from vpr.weights import WeightsError

REACH = SuperGlueNetwork.reach


def small(seed=0, iterations=20):
    """Weights with which about half the points of two views match."""
    network = randomise(SuperGlueNetwork((8, 16, 32), layers=4, sinkhorn_iterations=iterations), seed)
    for layer in network.gnn.layers:
        layer.mlp[-1].weight.data *= 0.3
        layer.attn.proj[0].weight.data *= 3
    network.kenc.encoder[-1].weight.data *= 0.05
    network.final_proj.weight.data = 8 * torch.eye(32)[..., None]
    network.bin_score.data = torch.tensor(6.0)
    return network


def matcher(network, **settings):
    return superglue.SuperGlue(network, "", superglue.Settings(**settings), CPU)


def test_parameters_of_the_published_size():
    network = SuperGlueNetwork()
    counts = {
        name: sum(each.numel() for each in part.parameters())
        for name, part in (("kenc", network.kenc), ("layer", network.gnn.layers[3]), ("final", network.final_proj))
    }
    assert counts == {"kenc": 110_336, "layer": 658_176, "final": 65_792}
    assert sum(each.numel() for each in network.parameters()) == 12_023_297


@torch.inference_mode()
def test_equals_the_plain_procedure():
    network = small(iterations=30)
    query = random_features(41, 32, seed=1)
    candidate = alike(query, 36, seed=2)
    sides = [stack([each], REACH, CPU) for each in (query, candidate)]
    theirs = [plain.Points(each.keypoints, each.scores, each.descriptors.T) for each in (query, candidate)]
    sizes = (query.image_size, candidate.image_size)
    expected = plain.superglue(network.state_dict(), *theirs, sizes, 30)
    torch.testing.assert_close(network(*sides)[0], expected, rtol=0, atol=2e-4)

    (found,) = matcher(network, match_threshold=0.1).match(query, [candidate])
    partner, scores = plain.matches(expected, 0.1)
    assert len(found) > 10
    assert found.pairs.tolist() == [[i, j] for i, j in enumerate(partner.tolist()) if j >= 0]
    torch.testing.assert_close(found.scores, scores[partner >= 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_learns_in_half_precision_what_it_learns_in_full(padded):
    random = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 4, count, 8, generator=random) for count in (5, 9, 9)]
    mask = torch.arange(9).expand(2, 9) < torch.tensor([[9], [6]]) if padded else None
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (each.to(dtype, copy=True).requires_grad_() for each in inputs)
        message = attention(q, k, v, mask)
        message.float().square().sum().backward()
        found.append([message, q.grad, k.grad, v.grad])
    for full, half in zip(*found, strict=True):
        assert (full - half.float()).norm() < 0.02 * full.norm()


@torch.inference_mode()
def test_the_fast_form_is_the_same_function_also_where_padded():
    network = small()
    firsts = stack([random_features(count, 32, seed=count) for count in (20, 11, 1)], REACH, CPU)
    seconds = stack([random_features(count, 32, seed=count) for count in (7, 30, 12)], REACH, CPU)
    fast = FastSuperGlue(network, CPU)
    torch.testing.assert_close(
        fast.log_assignment(fast.encode(firsts), fast.encode(seconds)), network(firsts, seconds), rtol=0, atol=2e-4
    )


@torch.inference_mode()
def test_one_query_serves_all_candidates():
    fast = FastSuperGlue(small(), CPU)
    query = fast.encode(stack([random_features(20, 32, seed=0)], REACH, CPU))
    candidates = [random_features(count, 32, seed=count) for count in (9, 25)]
    together = fast.log_assignment(query, fast.encode(stack(candidates, REACH, CPU)))
    for each, candidate in zip(together, candidates, strict=True):
        alone = fast.log_assignment(query, fast.encode(stack([candidate], REACH, CPU)))[0]
        torch.testing.assert_close(each[:, [*range(len(candidate)), -1]], alone, rtol=0, atol=1e-4)


def test_training_reaches_every_parameter():
    network = small().train()
    query = random_features(16, 32, seed=0)
    sides = [stack([each, each], REACH, CPU) for each in (query, alike(query, 16, seed=1))]
    assignment = network(*sides)
    (-assignment[:, 0, 0] - assignment[:, 1, -1]).sum().backward()
    without = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == []
    assert all(each.grad.isfinite().all() for each in network.parameters())


def test_weights_of_any_size_are_read(tmp_path):
    network = small()
    torch.save(network.state_dict(), tmp_path / "mine.pth")
    query = random_features(30, 32, seed=0)
    candidates = [alike(query, 25, seed=1)]
    method = superglue.build(superglue.Settings(weights=str(tmp_path / "mine.pth")), CPU)
    assert len(method.weights) == 64
    assert same_matches(method.match(query, candidates)[0], matcher(network).match(query, candidates)[0], 0)


def test_other_weights_and_other_features_are_refused(tmp_path):
    torch.save({"bin_score": torch.tensor(1.0)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="SuperGlueNetwork"):
        superglue.build(superglue.Settings(weights=str(tmp_path / "other.pth")), CPU)
    with pytest.raises(DataError, match="SuperGlue take descriptors of length 32, the local features have 128"):
        matcher(small()).match(random_features(3, 32, seed=0), [random_features(3, 128, seed=0)])
    with pytest.raises(ValueError, match="in pairs"):
        SuperGlueNetwork(layers=3)


def test_the_threshold_is_exclusive_and_the_score_a_probability():
    query = random_features(30, 32, seed=0)
    candidate = alike(query, 30, seed=1)
    (every,) = matcher(small(), match_threshold=0).match(query, [candidate])
    assert len(every) > 10
    assert every.scores.min() > 0 and every.scores.max() <= 1
    lowest = float(every.scores.min())
    (some,) = matcher(small(), match_threshold=lowest).match(query, [candidate])
    assert len(some) == len(every) - 1


@torch.inference_mode()
def test_half_precision_stays_near():
    network = small()
    query = random_features(20, 32, seed=0)
    sides = [stack([each], REACH, CPU) for each in (query, alike(query, 20, seed=1))]
    half = FastSuperGlue(network, CPU, torch.bfloat16)
    exact = network(*sides)
    ours = half.log_assignment(*map(half.encode, sides))
    assert ours.dtype == torch.float32
    assert (ours.exp() - exact.exp()).abs().max() < 0.1
