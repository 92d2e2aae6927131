"""train.py's model: no look at the future, what each window and gate does, counts that add up, weights of one seed."""

from __future__ import annotations

import pytest
import torch

from tests.harness.naive_attention import naive_attention
from tests.harness.train_module import load_train, shake, small_model


@pytest.fixture
def train(monkeypatch):
    yield from load_train(monkeypatch)


@pytest.mark.parametrize("pattern", ["L", "SL", "SSSL"])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_a_changed_suffix_never_reaches_an_earlier_logit(train, pattern, kv_heads):
    model = small_model(train, window_pattern=pattern, n_kv_head=kv_heads)
    shake(model)
    x = torch.randint(0, 50, (2, 16))
    before = model(x)
    for cut in range(16):
        other = x.clone()
        other[:, cut:] = (other[:, cut:] + 1) % 50
        after = model(other)
        assert torch.equal(after[:, :cut], before[:, :cut])
        assert not torch.equal(after[:, cut], before[:, cut]), "the changed token itself must be seen"


def test_rows_do_not_touch_each_other(train):
    model = small_model(train)
    shake(model)
    x = torch.randint(0, 50, (3, 16))
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]), atol=1e-6, rtol=1e-6)


def test_windows_follow_the_pattern_and_the_last_layer_is_full(train):
    config = small_model(train, n_layer=6, window_pattern="SSL").config
    assert train.windows(config) == [8, 8, 16, 8, 8, 16]
    assert train.windows(small_model(train, n_layer=1, window_pattern="s").config) == [16]


@pytest.mark.parametrize("pattern", ["", "LX", "M"])
def test_a_pattern_of_other_letters_is_refused(train, pattern):
    with pytest.raises(ValueError, match="L and S"):
        small_model(train, window_pattern=pattern)


def test_a_short_window_reaches_exactly_half_the_context_back(train):
    model = small_model(train, n_layer=2, window_pattern="S", softcap=0)
    shake(model)
    x = torch.randint(0, 50, (1, 16))
    seen = attention_input_reach(model.blocks[0].attn, model, x)
    assert seen == [list(range(max(0, i - 8), i + 1)) for i in range(16)]


def attention_input_reach(attn, model, x):
    """Which input positions move each output position of one attention layer, by gradient."""
    h = torch.randn(1, x.size(1), 32, requires_grad=True)
    y = attn(h, None, model.cos, model.sin)
    return [
        torch.autograd.grad(y[0, i].sum(), h, retain_graph=True)[0][0].abs().sum(-1).nonzero().flatten().tolist()
        for i in range(x.size(1))
    ]


def test_an_attention_layer_is_the_naive_computation(train):
    """Projections, value gate, rotation, norms, grouped heads and output, written out again."""
    model = small_model(train, n_layer=1, n_kv_head=2)
    shake(model)
    attn = model.blocks[0].attn
    h, ve = torch.randn(2, 16, 32), torch.randn(2, 16, 16)
    q = (h @ attn.c_q.weight.T).view(2, 16, 4, 8)
    k = (h @ attn.c_k.weight.T).view(2, 16, 2, 8)
    v = (h @ attn.c_v.weight.T).view(2, 16, 2, 8)
    gate = 2 / (1 + torch.exp(-(h @ attn.ve_gate.weight.T)))
    v = v + gate[..., None] * ve.view(2, 16, 2, 8)
    q, k = (naive_norm(naive_rotation(z)) for z in (q, k))
    due = naive_attention(q, k, v, 16).reshape(2, 16, 32) @ attn.c_proj.weight.T
    torch.testing.assert_close(attn(h, ve, model.cos, model.sin), due, atol=1e-5, rtol=1e-4)


def naive_rotation(x):
    """Pair (i, i + D/2) as a complex number, turned clockwise by position * 10000^(-2i/D)."""
    half = x.size(-1) // 2
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    frequency = 10000.0 ** (-torch.arange(half).double() / half)
    angle = torch.arange(x.size(1)).double()[:, None] * frequency
    turned = pairs * torch.exp(-1j * angle)[None, :, None, :]
    return torch.cat([turned.real, turned.imag], -1).float()


def naive_norm(x):
    return x / (x.square().mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()


def test_rotation_makes_scores_depend_on_distance_alone(train):
    cos, sin = train.rotary_tables(32, 8, torch.float32)
    q, k = torch.randn(2, 1, 1, 1, 8).expand(2, 1, 32, 1, 8)
    q, k = train.rotate(q, cos, sin)[0, :, 0], train.rotate(k, cos, sin)[0, :, 0]
    scores = q @ k.T
    torch.testing.assert_close(scores[:-5, :-5], scores[5:, 5:], atol=1e-4, rtol=1e-4)


def test_value_embeddings_are_on_every_other_layer_and_always_on_the_last(train):
    for depth in range(1, 7):
        model = small_model(train, n_layer=depth)
        layers = sorted(int(i) for i in model.value_embeds)
        assert layers == list(range(depth - 1, -1, -2))[::-1]
        assert [block.attn.ve_gate is not None for block in model.blocks] == [i in layers for i in range(depth)]


def test_a_fresh_gate_lets_values_through_unchanged(train):
    attn = small_model(train).blocks[-1].attn
    assert torch.equal(2 * torch.sigmoid(attn.ve_gate(torch.randn(4, 32))), torch.ones(4, 4))


def test_logits_stay_inside_the_softcap_and_are_free_without(train):
    for softcap, bounded in ((3.0, True), (0, False)):
        model = small_model(train, softcap=softcap)
        with torch.no_grad():
            model.lm_head.weight.mul_(1e4)
        assert (model(torch.randint(0, 50, (2, 16))).abs().max() <= 3.0) == bounded


def test_loss_is_the_mean_cross_entropy_of_the_logits(train):
    model = small_model(train)
    shake(model)
    x, y = torch.randint(0, 50, (2, 2, 16))
    logits = model(x).double()
    due = (logits.exp().sum(-1).log() - logits.gather(-1, y[..., None])[..., 0]).mean()
    assert model(x, y).item() == pytest.approx(due.item(), rel=1e-5)


def test_one_seed_one_model_bit_for_bit_and_another_seed_another(train):
    first, second, third = (small_model(train, seed=s).state_dict() for s in (5, 5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["wte.weight"], third["wte.weight"])


def test_init_weights_forgets_everything_learned(train):
    model, fresh = small_model(train, seed=5), small_model(train, seed=5)
    shake(model)
    model.init_weights(5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), fresh.parameters(), strict=True))


def test_counts_add_up_and_flops_are_six_per_multiplied_weight_plus_attention(train):
    model = small_model(train, n_layer=2, window_pattern="SL", n_kv_head=2)
    counts = model.parameter_counts()
    total = counts.pop("total")
    assert total == sum(counts.values()) == sum(p.numel() for p in model.parameters())
    width, kv, mlp = 32, 16, 128
    matrices = 2 * (2 * width * width + 2 * width * kv + 2 * width * mlp) + 32 * 2  # and the last layer's gate
    assert counts["transformer_matrices"] == matrices
    attention = 12 * width * (8 + 16)
    assert model.flops_per_token() == 6 * (matrices + 50 * width) + attention


def test_the_knobs_give_the_shape_they_say(train, monkeypatch, capsys):
    monkeypatch.setattr(train, "DEPTH", 3)
    monkeypatch.setattr(train, "ASPECT_RATIO", 20)
    monkeypatch.setattr(train, "HEAD_DIM", 32)
    config = train.build_model(50, "cpu").config
    assert (config.n_layer, config.n_embd, config.n_head) == (3, 64, 2)
    assert "transformer_matrices" in capsys.readouterr().out


def test_model_loss_and_logits_each_trace_as_one_graph(train):
    """What torch.compile does on a GPU, short of generating code: no break anywhere, the same numbers."""
    model = small_model(train, window_pattern="SL")
    shake(model)
    x, y = torch.randint(0, 50, (2, 2, 16))
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x, y), model(x, y))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))
    torch._dynamo.reset()
