"""Pre-train a small GPT within a fixed budget: the one file a candidate may change, and everything in it is fair game.

The score is val_bpb, validation bits per byte: lower is better. The harness owns the data, the budget and the score.
`python train.py` runs it alone; `arsched submit` has it judged. In order: knobs, model, optimizers, schedules, loop.
"""

import os

os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"

import functools
import gc
import sys
import time
from dataclasses import asdict, dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from harness import (
    MAX_SEQ_LEN,
    TIME_BUDGET,
    Tokenizer,
    elapsed_seconds,
    evaluate_bpb,
    make_attention,
    make_dataloader,
    peak_flops,
    peak_memory_mb,
    report_mfu,
    report_step,
    run_seed,
    training_device,
    training_dtype,
    warmup_batches,
)

# ---------------------------------------------------------------------------
# The knobs. One plain `NAME = value  # meaning` a line: tools rewrite them by name.
# ---------------------------------------------------------------------------

# Model
DEPTH = 4  # transformer layers
ASPECT_RATIO = 16  # width = DEPTH * ASPECT_RATIO, rounded up to a multiple of HEAD_DIM
HEAD_DIM = 32  # width of an attention head
WINDOW_PATTERN = "L"  # attention span by layer, repeated: L = whole context, S = half; the last layer is L
SOFTCAP = 15.0  # logits are squashed into (-SOFTCAP, SOFTCAP); 0 leaves them alone

# Optimization
TOTAL_BATCH_SIZE = 2048  # tokens per optimizer step
DEVICE_BATCH_SIZE = 16  # rows per forward and backward pass; lower it when memory runs out
EMBEDDING_LR = 0.6  # token and value embeddings (AdamW)
UNEMBEDDING_LR = 0.004  # lm_head (AdamW)
MATRIX_LR = 0.04  # matrices of the blocks (Muon)
SCALAR_LR = 0.5  # per-layer scalars (AdamW)
WEIGHT_DECAY = 0.2  # cautious decay of the matrices (Muon), falling to 0 over the budget
ADAM_BETAS = (0.8, 0.95)  # AdamW's beta1, beta2

# Schedule, in fractions of the budget
WARMUP_RATIO = 0.0  # learning rates rise from 0
WARMDOWN_RATIO = 0.5  # learning rates fall to FINAL_LR_FRAC
FINAL_LR_FRAC = 0.0  # where they end, as a fraction of where they were

# Not learning
COMPILE_STEPS = 3  # steps on random tokens before the clock starts, then forgotten
LOG_EVERY = 10  # steps between two lines of the log

# ---------------------------------------------------------------------------
# Model
# ---------------------------------------------------------------------------


@dataclass(frozen=True)
class GPTConfig:
    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int  # n_head is a multiple of it
    n_embd: int
    window_pattern: str = "L"
    softcap: float = 15.0
    embed_dtype: torch.dtype = torch.float32


def norm(x):
    """RMS norm without a learned gain."""
    return F.rms_norm(x, (x.size(-1),))


def windows(config):
    """How many earlier positions each layer attends to."""
    pattern = config.window_pattern.upper()
    if not pattern or set(pattern) - set("LS"):
        raise ValueError(f"WINDOW_PATTERN must be made of L and S, not {config.window_pattern!r}")
    length = {"L": config.sequence_len, "S": config.sequence_len // 2}
    return [length[pattern[i % len(pattern)]] for i in range(config.n_layer - 1)] + [length["L"]]


def has_value_embedding(layer, n_layer):
    """Every other layer, counted back from the last."""
    return (n_layer - 1 - layer) % 2 == 0


def rotary_tables(length, head_dim, dtype, base=10000):
    """cos and sin of position * frequency, each [1, length, 1, head_dim / 2]."""
    frequency = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), frequency)[None, :, None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x, cos, sin):
    """Rotary embedding: turn each pair (x[i], x[i + D/2]) of a head by its position's angle. x is [B, T, H, D]."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class CausalSelfAttention(nn.Module):
    GATE_CHANNELS = 32  # how much of the input the value gate looks at

    def __init__(self, config, layer, window):
        super().__init__()
        self.head_dim = config.n_embd // config.n_head
        kv_dim = config.n_kv_head * self.head_dim
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, kv_dim, bias=False)
        self.c_v = nn.Linear(config.n_embd, kv_dim, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.gate_channels = min(self.GATE_CHANNELS, config.n_embd)
        gated = has_value_embedding(layer, config.n_layer)
        self.ve_gate = nn.Linear(self.gate_channels, config.n_kv_head, bias=False) if gated else None
        self.attend = make_attention(window, config.sequence_len)

    def forward(self, x, ve, cos, sin):
        B, T, _ = x.shape
        q = self.c_q(x).view(B, T, -1, self.head_dim)
        k = self.c_k(x).view(B, T, -1, self.head_dim)
        v = self.c_v(x).view(B, T, -1, self.head_dim)
        if ve is not None:  # the token's own value, let through per head: 1 at the start, between 0 and 2 after
            gate = 2 * torch.sigmoid(self.ve_gate(x[..., : self.gate_channels]))
            v = v + gate.unsqueeze(-1) * ve.view(v.shape)
        q, k = norm(rotate(q, cos, sin)), norm(rotate(k, cos, sin))
        return self.c_proj(self.attend(q, k, v).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

    def forward(self, x):
        return self.c_proj(F.relu(self.c_fc(x)).square())


class Block(nn.Module):
    def __init__(self, config, layer, window):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer, window)
        self.mlp = MLP(config)

    def forward(self, x, ve, cos, sin):
        x = x + self.attn(norm(x), ve, cos, sin)
        return x + self.mlp(norm(x))


class GPT(nn.Module):
    """Token ids [B, T] to logits [B, T, vocab] in fp32, or with targets [B, T] to their mean cross-entropy (nats)."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.windows = windows(config)
        head_dim = config.n_embd // config.n_head
        kv_dim = config.n_kv_head * head_dim
        with_value = [str(i) for i in range(config.n_layer) if has_value_embedding(i, config.n_layer)]
        embedding = functools.partial(nn.Embedding, config.vocab_size, dtype=config.embed_dtype)
        self.wte = embedding(config.n_embd)
        self.value_embeds = nn.ModuleDict({layer: embedding(kv_dim) for layer in with_value})
        self.blocks = nn.ModuleList([Block(config, i, window) for i, window in enumerate(self.windows)])
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.resid_lambdas = nn.Parameter(torch.empty(config.n_layer))  # how much of the stream enters a layer
        self.x0_lambdas = nn.Parameter(torch.empty(config.n_layer))  # and how much of the embedding is added again
        cos, sin = rotary_tables(config.sequence_len, head_dim, config.embed_dtype)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @torch.no_grad()
    def init_weights(self, seed):
        """Draw every weight anew, in place: two calls with one seed leave the same model."""
        torch.manual_seed(seed)
        bound = (3 / self.config.n_embd) ** 0.5  # uniform with standard deviation 1 / sqrt(width)
        nn.init.normal_(self.wte.weight, std=1.0)
        nn.init.normal_(self.lm_head.weight, std=0.001)
        for embedding in self.value_embeds.values():
            nn.init.uniform_(embedding.weight, -bound, bound)
        for block in self.blocks:
            for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v, block.mlp.c_fc):
                nn.init.uniform_(layer.weight, -bound, bound)
            for layer in (block.attn.c_proj, block.mlp.c_proj, block.attn.ve_gate):
                if layer is not None:
                    nn.init.zeros_(layer.weight)
        self.resid_lambdas.fill_(1.0)
        self.x0_lambdas.fill_(0.1)

    def forward(self, idx, targets=None):
        cos, sin = self.cos[:, : idx.size(1)], self.sin[:, : idx.size(1)]
        x = x0 = norm(self.wte(idx))
        for i, block in enumerate(self.blocks):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            ve = self.value_embeds[str(i)](idx) if str(i) in self.value_embeds else None
            x = block(x, ve, cos, sin)
        logits = self.lm_head(norm(x)).float()
        if self.config.softcap:
            logits = self.config.softcap * torch.tanh(logits / self.config.softcap)
        if targets is None:
            return logits
        return F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1))

    def parameter_counts(self):
        """How many parameters each kind of thing has; they add up to `total`."""
        parts = {
            "wte": self.wte.parameters(),
            "value_embeds": self.value_embeds.parameters(),
            "lm_head": self.lm_head.parameters(),
            "transformer_matrices": self.blocks.parameters(),
            "scalars": [self.resid_lambdas, self.x0_lambdas],
        }
        counts = {name: sum(p.numel() for p in parameters) for name, parameters in parts.items()}
        return counts | {"total": sum(counts.values())}

    def flops_per_token(self):
        """Forward and backward, 6 per weight that is multiplied and 12 per attended channel (PaLM, appendix B)."""
        counts = self.parameter_counts()
        attended = sum(min(window, self.config.sequence_len) for window in self.windows)
        return 6 * (counts["transformer_matrices"] + counts["lm_head"]) + 12 * self.config.n_embd * attended


# ---------------------------------------------------------------------------
# Optimizers: Muon for the matrices of the blocks, AdamW for everything else
# ---------------------------------------------------------------------------

# Five steps of the Polar Express (https://arxiv.org/abs/2505.16932): x -> ax + bx^3 + cx^5 drives singular values to 1.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def orthogonalize(g, dtype=torch.float32):
    """The nearest semi-orthogonal matrix to each matrix of the stack [n, rows, cols], computed in dtype."""
    x = g.to(dtype)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    tall = x.size(-2) > x.size(-1)  # multiply on the short side
    for a, b, c in POLAR_EXPRESS:
        gram = x.mT @ x if tall else x @ x.mT
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, poly, beta=a) if tall else torch.baddbmm(x, poly, x, beta=a)
    return x


def muon_update(params, grads, momentum_buffer, variance_buffer, lr, weight_decay, momentum, beta2, dtype):
    """One step on a stack of matrices [n, rows, cols]: params and both buffers change in place."""
    momentum_buffer.lerp_(grads, 1 - momentum)
    update = orthogonalize(grads.lerp(momentum_buffer, momentum), dtype)  # Nesterov: look one step ahead
    # NorMuon (https://arxiv.org/abs/2510.05491): even out the neurons, keep the size of the whole.
    neuron = -1 if params.size(-2) >= params.size(-1) else -2
    power = update.float().square().mean(dim=neuron, keepdim=True)
    variance_buffer.lerp_(power, 1 - beta2)
    scale = variance_buffer.clamp_min(1e-10).rsqrt()
    before, after = power.sum((-2, -1), keepdim=True), (power * scale.square()).sum((-2, -1), keepdim=True)
    update = update * (scale * (before / after.clamp_min(1e-20)).sqrt())
    # Cautious decay: shrink a weight only where the update shrinks it too.
    params.sub_(lr * (update + weight_decay * params * (update * params >= 0)))


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (https://kellerjordan.github.io/posts/muon). Matrices of one shape step as one stack."""

    def __init__(self, params, lr, weight_decay, momentum=0.95, beta2=0.95):
        params = list(params)
        shapes = sorted({p.shape for p in params})
        groups = [{"params": [p for p in params if p.shape == shape]} for shape in shapes]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "beta2": beta2})
        self.update = muon_update
        if params[0].is_cuda:
            torch._dynamo.config.recompile_limit = 64  # one compilation a shape; past the limit steps run uncompiled
            self.update = torch.compile(muon_update, dynamic=False)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            params = group["params"]
            rows, cols = params[0].shape
            state = self.state[params[0]]
            if not state:
                state["momentum"] = torch.stack(params).zero_()
                state["variance"] = state["momentum"].mean(dim=-1 if rows >= cols else -2, keepdim=True)
            lr = group["lr"] * max(1.0, rows / cols) ** 0.5
            # As tensors, so that a changed value does not make torch.compile start over.
            scalars = [torch.tensor(x) for x in (lr, group["weight_decay"], group["momentum"], group["beta2"])]
            stacked, grads = torch.stack(params), torch.stack([p.grad for p in params])
            self.update(stacked, grads, state["momentum"], state["variance"], *scalars, training_dtype())
            torch._foreach_copy_(params, list(stacked.unbind()))


def make_optimizers(model):
    """[AdamW, Muon]; every parameter is in exactly one group. AdamW's rates were tuned at width 768."""
    scale = (model.config.n_embd / 768) ** -0.5
    adamw = torch.optim.AdamW(
        [
            {"params": model.lm_head.parameters(), "lr": UNEMBEDDING_LR * scale},
            {"params": model.wte.parameters(), "lr": EMBEDDING_LR * scale},
            {"params": model.value_embeds.parameters(), "lr": EMBEDDING_LR * scale},
            {"params": [model.resid_lambdas], "lr": SCALAR_LR * 0.01},
            {"params": [model.x0_lambdas], "lr": SCALAR_LR, "betas": (0.96, 0.95)},
        ],
        betas=ADAM_BETAS,
        eps=1e-10,
        weight_decay=0.0,
        fused=True,
    )
    muon = Muon(model.blocks.parameters(), lr=MATRIX_LR, weight_decay=WEIGHT_DECAY)
    for group in adamw.param_groups + muon.param_groups:
        group["initial_lr"] = group["lr"]
    return [adamw, muon]


# ---------------------------------------------------------------------------
# Schedules, by progress (share of the budget used, 0 to 1) or by step
# ---------------------------------------------------------------------------


def lr_multiplier(progress):
    """Up over WARMUP_RATIO, flat, down over WARMDOWN_RATIO."""
    if progress < WARMUP_RATIO:
        return progress / WARMUP_RATIO
    if progress < 1 - WARMDOWN_RATIO:
        return 1.0
    left = (1 - progress) / WARMDOWN_RATIO if WARMDOWN_RATIO else 1.0
    return left + (1 - left) * FINAL_LR_FRAC


def muon_momentum(step):
    """0.85 rising to 0.95 over the first 300 steps."""
    return 0.85 + 0.10 * min(step / 300, 1)


def set_schedules(optimizers, step, progress):
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * lr_multiplier(progress)
            if "momentum" in group:
                group["momentum"] = muon_momentum(step)
                group["weight_decay"] = WEIGHT_DECAY * (1 - progress)


# ---------------------------------------------------------------------------
# Training
# ---------------------------------------------------------------------------


class Trainer:
    """A model with its optimizers: steps on batches, and can forget all it has learned."""

    def __init__(self, model, device, seed):
        self.model, self.seed = model, seed
        self.forward = torch.compile(model, dynamic=False) if device == "cuda" else model
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=training_dtype() == torch.bfloat16)
        self.optimizers = make_optimizers(model)
        self.micro_steps, rest = divmod(TOTAL_BATCH_SIZE, DEVICE_BATCH_SIZE * MAX_SEQ_LEN)
        if rest or not self.micro_steps:
            raise ValueError("TOTAL_BATCH_SIZE must be a multiple of DEVICE_BATCH_SIZE * MAX_SEQ_LEN")
        self.start_afresh()

    def start_afresh(self):
        self.model.init_weights(self.seed)
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def step(self, batches, step, progress):
        """One optimizer step over micro_steps batches. Returns the mean loss in nats per token."""
        total = 0.0
        for _ in range(self.micro_steps):
            x, y, *_ = next(batches)
            with self.autocast:
                loss = self.forward(x, y) / self.micro_steps
            loss.backward()
            total = total + loss.detach()
        set_schedules(self.optimizers, step, progress)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total.item()

    def warm_up(self):
        """Whole steps and one evaluation forward on random tokens, so that all is compiled; then forget them."""
        batches = iter(warmup_batches(DEVICE_BATCH_SIZE, MAX_SEQ_LEN, COMPILE_STEPS * self.micro_steps + 1))
        for step in range(COMPILE_STEPS):
            self.step(batches, step, progress=0.0)
        self.model.eval()
        with torch.no_grad(), self.autocast:
            self.forward(next(batches)[0])
        self.model.train()
        self.start_afresh()

    def evaluate(self, tokenizer):
        self.model.eval()
        with self.autocast:
            return evaluate_bpb(self.forward, tokenizer, DEVICE_BATCH_SIZE)


def train(trainer, loader):
    """Step until another step would not fit the budget. Returns the number of steps; exits if the loss explodes."""
    step, used_s, step_s, smooth_loss = 0, 0.0, 0.0, 0.0
    while used_s + step_s <= TIME_BUDGET:
        progress = used_s / TIME_BUDGET
        loss = trainer.step(loader, step, progress)  # the first batch of all starts the clock
        if not loss <= 100:  # NaN too
            sys.exit(f"FAIL: loss {loss} at step {step}")
        step += 1
        now_s = elapsed_seconds()
        used_s, step_s = now_s, now_s - used_s
        report_step(step, loss, step * TOTAL_BATCH_SIZE)
        smooth_loss = 0.9 * smooth_loss + 0.1 * loss
        if step % LOG_EVERY == 0:
            tokens_per_s = TOTAL_BATCH_SIZE / step_s
            print(
                f"step {step:05d} ({100 * progress:.1f}%) | loss: {smooth_loss / (1 - 0.9**step):.6f}"
                f" | lrm: {lr_multiplier(progress):.2f} | dt: {step_s * 1000:.0f}ms | tok/sec: {tokens_per_s:,.0f}"
                f" | mfu: {mfu_percent(trainer.model, tokens_per_s):.1f}% | remaining: {TIME_BUDGET - used_s:.0f}s",
                flush=True,
            )
    return step


def mfu_percent(model, tokens_per_s):
    """Model FLOPs utilisation: share of the device's bf16 peak; 0 where the peak is not known."""
    peak = peak_flops()
    return 100 * model.flops_per_token() * tokens_per_s / peak if peak else 0.0


def build_model(vocab_size, device):
    """The model the knobs describe, on the device, weights not yet drawn."""
    heads = -(-DEPTH * ASPECT_RATIO // HEAD_DIM)
    config = GPTConfig(
        sequence_len=MAX_SEQ_LEN,
        vocab_size=vocab_size,
        n_layer=DEPTH,
        n_head=heads,
        n_kv_head=heads,
        n_embd=heads * HEAD_DIM,
        window_pattern=WINDOW_PATTERN,
        softcap=SOFTCAP,
        embed_dtype=training_dtype(),
    )
    with torch.device(device):
        model = GPT(config)
    print(f"Model config: {asdict(config)}")
    print("Parameter counts:")
    for name, count in model.parameter_counts().items():
        print(f"  {name:24s}: {count:,}")
    print(f"Estimated FLOPs per token: {model.flops_per_token():e}")
    return model


def print_summary(model, val_bpb, steps, training_s, total_s):
    tokens = steps * TOTAL_BATCH_SIZE
    print("---")
    print(f"val_bpb:          {val_bpb:.6f}")
    print(f"training_seconds: {training_s:.1f}")
    print(f"total_seconds:    {total_s:.1f}")
    print(f"peak_vram_mb:     {peak_memory_mb():.1f}")
    print(f"mfu_percent:      {mfu_percent(model, tokens / training_s):.2f}")
    print(f"total_tokens_M:   {tokens / 1e6:.1f}")
    print(f"num_steps:        {steps}")
    print(f"num_params_M:     {model.parameter_counts()['total'] / 1e6:.1f}")
    print(f"depth:            {DEPTH}")


def main():
    began = time.monotonic()
    torch.set_float32_matmul_precision("high")
    device = training_device()
    tokenizer = Tokenizer.from_directory()
    trainer = Trainer(build_model(tokenizer.get_vocab_size(), device), device, run_seed())
    trainer.warm_up()
    gc.collect()
    gc.freeze()  # what lives by now lives to the end: later collections need not look at it

    loader = make_dataloader(tokenizer, DEVICE_BATCH_SIZE, MAX_SEQ_LEN, "train")
    steps = train(trainer, loader)
    training_s = elapsed_seconds()
    if peak_flops():
        report_mfu(mfu_percent(trainer.model, steps * TOTAL_BATCH_SIZE / training_s) / 100)
    val_bpb = trainer.evaluate(tokenizer)
    print_summary(trainer.model, val_bpb, steps, training_s, time.monotonic() - began)


if __name__ == "__main__":
    main()
