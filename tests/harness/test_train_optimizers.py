"""train.py's optimizers and schedules: parity with naive ones in float64, every parameter once, rates that behave."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.train_module import load_train, shake, small_model

COEFFICIENTS = (  # the published five steps, to 17 digits
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


@pytest.fixture
def train(monkeypatch):
    yield from load_train(monkeypatch)


def test_every_parameter_is_in_exactly_one_group(train):
    for depth in (1, 2, 5):
        model = small_model(train, n_layer=depth, n_kv_head=2)
        grouped = [p for o in train.make_optimizers(model) for group in o.param_groups for p in group["params"]]
        assert sorted(map(id, grouped)) == sorted(map(id, model.parameters()))


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else(train):
    model = small_model(train)
    _, muon = train.make_optimizers(model)
    got = {id(p) for group in muon.param_groups for p in group["params"]}
    assert got == {id(p) for p in model.blocks.parameters()}


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 40, 8), (2, 8, 40), (1, 6, 2)])
def test_orthogonalize_drives_every_singular_value_to_one(train, shape):
    torch.manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    spectrum = torch.linspace(1.0, 0.02, min(shape[1:]))
    x = train.orthogonalize(u @ torch.diag_embed(spectrum).expand(shape[0], -1, -1) @ vh)
    values = torch.linalg.svdvals(x)
    assert values.min() > 0.6 and values.max() < 1.3
    naive = (u @ torch.diag_embed(naive_polynomial(spectrum / (spectrum.norm() * 1.02 + 1e-6))) @ vh).float()
    torch.testing.assert_close(x, naive, atol=2e-3, rtol=1e-2)


def naive_polynomial(values):
    """The five odd polynomials applied to the singular values themselves."""
    values = values.double()
    for a, b, c in COEFFICIENTS:
        values = a * values + b * values**3 + c * values**5
    return values.float()


@pytest.mark.parametrize("shape", [(16, 16), (32, 8), (8, 32)])
def test_muon_is_the_naive_muon_over_many_steps(train, shape):
    """One matrix at a time, in float64, written from the papers."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape)) for _ in range(3)]
    naive = [NaiveMuon(p.detach().double().clone()) for p in params]
    muon = train.Muon(params, lr=0.02, weight_decay=0.2, momentum=0.9, beta2=0.95)
    for _ in range(6):
        for p, n in zip(params, naive, strict=True):
            p.grad = torch.randn(shape)
            n.step(p.grad.double(), lr=0.02, weight_decay=0.2, momentum=0.9, beta2=0.95)
        muon.step()
    for p, n in zip(params, naive, strict=True):
        torch.testing.assert_close(p.detach().double(), n.weight, atol=1e-5, rtol=1e-4)


class NaiveMuon:
    """Muon with NorMuon's variance reduction and cautious decay, for one matrix."""

    def __init__(self, weight):
        self.weight = weight
        rows, cols = weight.shape
        self.per_row = rows >= cols  # a neuron is a row of a tall or square matrix, a column of a wide one
        self.momentum = torch.zeros_like(weight)
        self.variance = torch.zeros(rows if self.per_row else cols, dtype=weight.dtype)

    def step(self, grad, *, lr, weight_decay, momentum, beta2):
        self.momentum = momentum * self.momentum + (1 - momentum) * grad
        nesterov = momentum * self.momentum + (1 - momentum) * grad
        update = self.even_out(self.orthogonalized(nesterov), beta2)
        rate = lr * max(1.0, self.weight.shape[0] / self.weight.shape[1]) ** 0.5
        decayed = torch.where(update * self.weight >= 0, weight_decay * self.weight, torch.zeros_like(self.weight))
        self.weight = self.weight - rate * update - rate * decayed

    @staticmethod
    def orthogonalized(matrix):
        x = matrix / (matrix.norm() * 1.02 + 1e-6)
        for a, b, c in COEFFICIENTS:
            gram = x @ x.T
            x = a * x + b * gram @ x + c * gram @ gram @ x
        return x

    def even_out(self, update, beta2):
        power = update.square().mean(1 if self.per_row else 0)
        self.variance = beta2 * self.variance + (1 - beta2) * power
        scale = self.variance.clamp_min(1e-10).rsqrt()
        scaled = update * (scale[:, None] if self.per_row else scale[None, :])
        return scaled * update.norm() / scaled.norm()


def test_a_zero_gradient_moves_nothing_but_the_decay(train):
    weight = torch.nn.Parameter(torch.randn(8, 8))
    before = weight.detach().clone()
    weight.grad = torch.zeros(8, 8)
    train.Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight.detach(), before), "no NaN from normalising nothing"


def test_adamw_is_the_naive_adamw_in_every_group(train):
    model = small_model(train)
    shake(model)
    adamw, _ = train.make_optimizers(model)
    states = [(p, p.detach().double().clone(), group) for group in adamw.param_groups for p in group["params"]]
    first = [torch.zeros_like(w) for _, w, _ in states]
    second = [torch.zeros_like(w) for _, w, _ in states]
    for t in range(1, 5):
        for i, (p, w, group) in enumerate(states):
            p.grad = torch.randn_like(p)
            beta1, beta2 = group["betas"]
            first[i] = beta1 * first[i] + (1 - beta1) * p.grad.double()
            second[i] = beta2 * second[i] + (1 - beta2) * p.grad.double() ** 2
            w -= group["lr"] * (first[i] / (1 - beta1**t)) / ((second[i] / (1 - beta2**t)).sqrt() + 1e-10)
        adamw.step()
    for p, w, _ in states:
        torch.testing.assert_close(p.detach().double(), w, atol=1e-4, rtol=1e-4)


def test_adamw_rates_scale_with_width_and_the_scalars_do_not(train):
    for width in (32, 128):
        adamw, _ = train.make_optimizers(small_model(train, n_embd=width))
        rates = [group["lr"] for group in adamw.param_groups]
        scale = (width / 768) ** -0.5
        assert rates == pytest.approx([0.004 * scale, 0.6 * scale, 0.6 * scale, 0.005, 0.5])
        assert adamw.param_groups[-1]["betas"] == (0.96, 0.95)


@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.5), warmdown=st.floats(0, 0.5), final=st.floats(0, 1))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rates_never_leave_the_unit_interval_and_hit_their_ends(train, progress, warmup, warmdown, final):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("WARMUP_RATIO", warmup), ("WARMDOWN_RATIO", warmdown), ("FINAL_LR_FRAC", final)):
            patch.setattr(train, name, value)
        assert 0 <= train.lr_multiplier(progress) <= 1 + 1e-9
        assert train.lr_multiplier(0.0) == (0.0 if warmup else 1.0)
        if warmdown:
            assert train.lr_multiplier(1.0) == pytest.approx(final)
        if warmup <= progress < 1 - warmdown:
            assert train.lr_multiplier(progress) == 1.0


def test_set_schedules_moves_every_group_and_only_muon_has_momentum(train):
    adamw, muon = train.make_optimizers(small_model(train))
    train.set_schedules([adamw, muon], step=150, progress=0.75)
    for group in adamw.param_groups + muon.param_groups:
        assert group["lr"] == pytest.approx(0.5 * group["initial_lr"])
    assert all(group["momentum"] == pytest.approx(0.9) for group in muon.param_groups)
    assert all(group["weight_decay"] == pytest.approx(0.2 * 0.25) for group in muon.param_groups)
    assert all(group["weight_decay"] == 0 for group in adamw.param_groups)


def test_momentum_rises_and_stays(train):
    values = [train.muon_momentum(step) for step in (0, 100, 300, 10_000)]
    assert values == pytest.approx([0.85, 0.85 + 0.1 / 3, 0.95, 0.95])
