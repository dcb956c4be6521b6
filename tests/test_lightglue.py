import math

import pytest
import torch
from published import CPU, alike, random_features, randomise, same_matches
from torch.nn import functional

from vpr.core import DataError
from vpr.matchers import attention, lightglue
from vpr.matchers.lightglue_adaptive import Adaptivity, match_adaptively
from vpr.matchers.lightglue_fast import FastLightGlue
from vpr.matchers.lightglue_network import LightGlueNetwork
from vpr.matchers.one_to_many import mutual_best
from vpr.matchers.points import stack
from vpr.weights import WeightsError

REACH = LightGlueNetwork.reach
OFF = Adaptivity(-1, -1)


def small(seed=0, input_dim=32, layers=4):
    """Weights with which most common points of two views match, and pairs differ in depth and width."""
    network = LightGlueNetwork(input_dim, 32, layers, heads=2)
    network.load_state_dict(randomise(LightGlueNetwork(32, 32, layers, heads=2), seed).state_dict(), strict=False)
    if input_dim != 32:
        network.input_proj.weight.data = torch.eye(32, input_dim)
        network.input_proj.bias.data.zero_()
    for layer in network.transformers:
        for block in (layer.self_attn, layer.cross_attn):
            block.ffn[-1].weight.data *= 0.3
    for i, (_, assign, confidence) in enumerate(network.parts()):
        assign.final_proj.weight.data = 6 * torch.eye(32)
        assign.matchability.weight.data *= 6
        assign.matchability.bias.data.fill_(1.0)
        if confidence is not None:
            confidence.token[0].weight.data *= 3
            confidence.token[0].bias.data.fill_(2.0 * i)
    return network.eval()


def matcher(network, **settings):
    return lightglue.LightGlue(network, "", lightglue.Settings(**settings), CPU)


# ---- the network


def test_parameters_of_the_published_size():
    assert sum(each.numel() for each in LightGlueNetwork().parameters()) == 11_851_601
    assert "input_proj.weight" not in LightGlueNetwork().state_dict()
    assert LightGlueNetwork(input_dim=128).state_dict()["input_proj.weight"].shape == (256, 128)


def plain_lightglue(network, first, second):
    """Log assignment of one pair without its last row and column, as the paper writes it: one attention at a time."""

    def softmax_sum(q, k, v):
        return torch.einsum("hmn,hnd->mhd", torch.softmax(torch.einsum("hmd,hnd->hmn", q, k), -1), v).flatten(1)

    def updated(x, message, block, out):
        return x + block.ffn(torch.cat([x, out(message)], -1))

    def turned(q, points):
        angles = points @ network.posenc.Wr.weight.T
        turned = torch.empty_like(q)
        for i in range(angles.shape[1]):
            c, s = angles[:, i].cos(), angles[:, i].sin()
            turned[..., 2 * i] = c * q[..., 2 * i] - s * q[..., 2 * i + 1]
            turned[..., 2 * i + 1] = s * q[..., 2 * i] + c * q[..., 2 * i + 1]
        return turned

    xs = [network.input_proj(each.descriptors) for each in (first, second)]
    places = [
        (each.keypoints - torch.tensor(each.image_size) / 2) / (max(each.image_size) / 2) for each in (first, second)
    ]
    heads, channels = network.heads, network.dim // network.heads
    for layer in network.transformers:
        own = layer.self_attn
        for i in (0, 1):
            q, k, v = own.Wqkv(xs[i]).view(-1, heads, channels, 3).permute(3, 1, 0, 2)
            message = softmax_sum(turned(q, places[i]) / math.sqrt(channels), turned(k, places[i]), v)
            xs[i] = updated(xs[i], message, own, own.out_proj)
        cross = layer.cross_attn
        qk = [cross.to_qk(x).view(-1, heads, channels).transpose(0, 1) / channels**0.25 for x in xs]
        v = [cross.to_v(x).view(-1, heads, channels).transpose(0, 1) for x in xs]
        messages = [softmax_sum(qk[i], qk[1 - i], v[1 - i]) for i in (0, 1)]
        xs = [updated(x, message, cross, cross.to_out) for x, message in zip(xs, messages, strict=True)]
    head = network.log_assignment[-1]
    similarity = head.final_proj(xs[0]) @ head.final_proj(xs[1]).T / math.sqrt(network.dim)
    sure = [functional.logsigmoid(head.matchability(x)) for x in xs]
    return torch.log_softmax(similarity, 0) + torch.log_softmax(similarity, 1) + sure[0] + sure[1].T


@torch.inference_mode()
@pytest.mark.parametrize("input_dim", [32, 20])
def test_equals_the_plain_procedure(input_dim):
    network = small(input_dim=input_dim)
    query = random_features(23, input_dim, seed=1)
    candidate = alike(query, 30, seed=2, noise=0.1)
    expected = plain_lightglue(network, query, candidate)
    sides = [stack([each], REACH, CPU) for each in (query, candidate)]
    torch.testing.assert_close(network(*sides)[-1].log_assignment[0, :-1, :-1], expected, rtol=0, atol=1e-4)

    (found,) = matcher(network, depth_confidence=-1, width_confidence=-1).match(query, [candidate])
    best = [(i, int(j)) for i, j in enumerate(expected.argmax(1)) if expected[:, j].argmax() == i]
    pairs = [(i, j) for i, j in best if expected[i, j].exp() > 0.1]
    assert len(pairs) > 1
    assert found.pairs.tolist() == [list(pair) for pair in pairs]
    torch.testing.assert_close(found.scores, torch.stack([expected[pair].exp() for pair in pairs]), rtol=0, atol=1e-4)


@torch.inference_mode()
def test_the_fast_form_is_the_same_function_also_where_padded():
    network = small()
    batches = [
        stack([random_features(count, 32, seed=count) for count in counts], REACH, CPU)
        for counts in ((20, 11, 1), (7, 30, 12))
    ]
    fast = FastLightGlue(network, CPU)
    sides = tuple(map(fast.encode, batches))
    for i, expected in enumerate(network(*batches)):
        sides = fast.layer(i, *sides)
        core = expected.log_assignment[:, :-1, :-1]
        torch.testing.assert_close(fast.log_assignment(i, *sides), core, rtol=1e-5, atol=1e-4)
        if expected.confidence0 is not None:
            torch.testing.assert_close(fast.judge(i, sides[0])[..., 1], expected.confidence0, rtol=0, atol=1e-5)
            torch.testing.assert_close(fast.judge(i, sides[1])[..., 1], expected.confidence1, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_training_form_marks_padding_and_says_who_is_unmatched():
    network = small()
    first, second = (stack([random_features(n, 32, seed=n) for n in counts], REACH, CPU) for counts in ((9, 5), (4, 8)))
    results = network(first, second)
    assert len(results) == 4
    assert results[-1].confidence0 is None
    together = results[-1].log_assignment
    for row, (m, n) in enumerate(((9, 4), (5, 8))):
        alone = network(*(stack([random_features(count, 32, seed=count)], REACH, CPU) for count in (m, n)))
        kept = together[row][[*range(m), -1]][:, [*range(n), -1]]
        torch.testing.assert_close(kept, alone[-1].log_assignment[0], rtol=0, atol=1e-4)
    assert (together[1, 5:9] == -torch.inf).all() and (together[0, :, 4:8] == -torch.inf).all()
    assert together[0, -1, -1] == 0


def test_training_reaches_every_parameter():
    network = small().train()
    query = random_features(12, 32, seed=0)
    sides = [
        stack([query, random_features(9, 32, seed=3)], REACH, CPU),
        stack([alike(query, 12, seed=1)] * 2, REACH, CPU),
    ]
    loss = torch.zeros(())
    for result in network(*sides):
        loss = loss - result.log_assignment[:, 0, 0].sum() - result.log_assignment[:, 1, -1].sum()
        if result.confidence0 is not None:
            loss = loss + result.confidence0.sum() + result.confidence1.sum()
    loss.backward()
    # Of the last row and column's matchability bias, of both columns: all that matters has a finite gradient.
    without = [name for name, each in network.named_parameters() if each.grad is None or not each.grad.any()]
    assert without == []
    assert all(each.grad.isfinite().all() for each in network.parameters())


@torch.inference_mode()
@pytest.mark.parametrize("size", [1, 3, 60])  # of the largest, float32 cannot hold exponentials
@pytest.mark.parametrize("together", [1, 20, 1 << 18])
def test_attention_both_ways_is_attention_each_way(monkeypatch, size, together):
    monkeypatch.setattr(attention, "TOGETHER", together)
    random = torch.Generator().manual_seed(0)
    qk, v = ([torch.randn(2, count, 8, generator=random) * scale for count in (5, 9)] for scale in (size, 1))
    found = attention.attend_both(tuple(qk), tuple(v), 2, (None, None))
    for mine, expected in zip(
        found, (attention.attend(qk[0], qk[1], v[1], 2), attention.attend(qk[1], qk[0], v[0], 2)), strict=True
    ):
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5)


# ---- adaptive depth and width


def best_of(found):
    """Partners and scores (B, M) of the first picture's points."""
    return mutual_best(found.log_scores[:, :-1, :-1])


@torch.inference_mode()
@pytest.mark.parametrize(
    "how", [OFF, Adaptivity(0.6, -1), Adaptivity(-1, 0.9), Adaptivity(0.8, 0.9), Adaptivity(0.8, 0.9, 20)]
)
def test_every_pair_of_a_batch_does_what_it_does_singly(how):
    fast = FastLightGlue(small(), CPU)
    query = random_features(24, 32, seed=0)
    candidates = [alike(query, count, seed=count) for count in (30, 24, 17, 9, 3, 1)]
    candidates += [random_features(count, 32, seed=count + 50) for count in (28, 24, 2)]
    mine = fast.encode(stack([query], REACH, CPU))
    together = match_adaptively(fast, mine, fast.encode(stack(candidates, REACH, CPU)), how)
    for row, candidate in enumerate(candidates):
        alone = match_adaptively(fast, mine, fast.encode(stack([candidate], REACH, CPU)), how)
        assert together.stop[row] == alone.stop[0]
        mine_alone = best_of(alone)
        mine_together = [each[row] for each in best_of(together)]
        assert torch.equal(mine_together[0], mine_alone[0][0])
        torch.testing.assert_close(mine_together[1], mine_alone[1][0], rtol=0, atol=1e-5)
        assert torch.equal(together.survived0[row, :-1], alone.survived0[0, :-1])
        assert torch.equal(together.survived1[row, : len(candidate)], alone.survived1[0, :-1])
    if how.depth_confidence > 0:
        assert len(set(together.stop.tolist())) > 1
    if how.width_confidence > 0:
        assert len(together.survived0[:, :-1].unique()) > 1


@torch.inference_mode()
def test_a_pair_that_loses_all_points_ends_without_matches():
    network = small()
    for _, assign, _ in network.parts():
        assign.matchability.bias.data.fill_(-100.0)
    query = random_features(10, 32, seed=0)
    fast = FastLightGlue(network, CPU)
    sides = [fast.encode(stack(each, REACH, CPU)) for each in ([query], [alike(query, 10, seed=1), query])]
    found = match_adaptively(fast, *sides, Adaptivity(-1, 0.9))
    assert found.stop.tolist() == [2, 2]
    assert (best_of(found)[0] == -1).all()
    kept = match_adaptively(fast, *sides, Adaptivity(-1, 0.9, prune_above=10))
    assert kept.stop.tolist() == [4, 4]


@torch.inference_mode()
def test_a_stopped_pair_is_matched_by_the_head_of_its_layer():
    network = small()
    for _, _, confidence in network.parts():
        if confidence is not None:
            confidence.token[0].bias.data.fill_(100.0)
    query = random_features(14, 32, seed=0)
    candidate = alike(query, 12, seed=1)
    sides = [stack([each], REACH, CPU) for each in (query, candidate)]
    fast = FastLightGlue(network, CPU)
    found = match_adaptively(fast, *map(fast.encode, sides), Adaptivity())
    assert found.stop.tolist() == [1]
    first = network(*sides)[0].log_assignment[0, :-1, :-1]
    partner, scores = (each[0] for each in best_of(found))
    rows = (partner >= 0).nonzero()[:, 0]
    assert len(rows)
    torch.testing.assert_close(scores[rows], first[rows, partner[rows]].exp(), rtol=0, atol=1e-5)


# ---- the method


@pytest.mark.parametrize("input_dim", [32, 20])
def test_weights_of_any_size_and_of_either_naming_are_read(tmp_path, input_dim):
    network = small(input_dim=input_dim)
    state = network.state_dict()
    old = {"confidence_thresholds": torch.zeros(4)}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        number, _, inner = rest.partition(".")
        block, _, name = inner.partition(".")
        old[f"{block}.{number}.{name}" if part == "transformers" else key] = value
    assert "self_attn.0.Wqkv.weight" in old
    torch.save(state, tmp_path / "new.pth")
    torch.save({"state_dict": old}, tmp_path / "old.pth")
    query = random_features(20, input_dim, seed=0)
    candidates = [alike(query, 25, seed=1)]
    (expected,) = matcher(network).match(query, candidates)
    assert len(expected) > 5
    for name in ("new.pth", "old.pth"):
        method = lightglue.build(lightglue.Settings(weights=str(tmp_path / name)), CPU)
        assert same_matches(method.match(query, candidates)[0], expected, 0)


def test_other_weights_and_other_features_are_refused(tmp_path):
    torch.save({"posenc.Wr.weight": torch.zeros(32, 2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="LightGlueNetwork"):
        lightglue.build(lightglue.Settings(weights=str(tmp_path / "other.pth")), CPU)
    with pytest.raises(DataError, match="LightGlue take descriptors of length 32, the local features have 128"):
        matcher(small()).match(random_features(3, 128, seed=0), [random_features(3, 32, seed=0)])


@torch.inference_mode()
def test_half_precision_stays_near():
    network = small()
    query = random_features(20, 32, seed=0)
    sides = [stack([each], REACH, CPU) for each in (query, alike(query, 20, seed=1))]
    scores = []
    for dtype in (torch.float32, torch.bfloat16):
        fast = FastLightGlue(network, CPU, dtype)
        scores.append(best_of(match_adaptively(fast, *map(fast.encode, sides), OFF))[1])
    assert (scores[0] - scores[1]).abs().max() < 0.1
