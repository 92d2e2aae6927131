# Follows prelude.py in candidates that say TORCH = True: small sequence models, and a few steps of training.
import torch
from torch import nn
from torch.nn import functional as F

WIDTH, STEPS, BATCH = 32, 8, 16
torch.manual_seed(int(os.environ["ARSCHED_SEED"]))


class Attention(nn.Module):
    """x [b, T, W] -> [b, T, W]."""

    def __init__(self, heads, kv_heads, rotary=False, window=None, alibi=False):
        super().__init__()
        self.heads, self.kv_heads, self.size, self.rotary = heads, kv_heads, WIDTH // heads, rotary
        self.project = nn.Linear(WIDTH, (heads + 2 * kv_heads) * self.size)
        distance = torch.arange(T)[:, None] - torch.arange(T)
        visible = (distance >= 0) & (distance < (window or T))
        bias = torch.zeros(T, T).masked_fill(~visible, float("-inf"))
        slopes = 2.0 ** -torch.arange(1, heads + 1)[:, None, None]
        self.register_buffer("bias", bias - slopes * distance.clamp(min=0) if alibi else bias.expand(heads, T, T))

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (
            self.project(x)
            .view(b, t, -1, self.size)
            .transpose(1, 2)
            .split([self.heads, self.kv_heads, self.kv_heads], 1)
        )
        if self.rotary:
            q, k = turned(q), turned(k)
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        return (
            F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias[:, :t, :t].to(q.dtype))
            .transpose(1, 2)
            .reshape(b, t, -1)
        )


def turned(x):
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 0.1 ** torch.arange(half)
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).to(x.dtype)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.net = kind(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.net(x)[0]


class StateSpace(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay, self.inward = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        state, states, keep = torch.zeros(len(x), WIDTH), [], torch.sigmoid(self.decay)
        for step in self.inward(x).unbind(1):
            state = keep * state + (1 - keep) * step
            states.append(state)
        return torch.stack(states, 1)


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(WIDTH, WIDTH, 4)

    def forward(self, x):
        return self.net(F.pad(x.transpose(1, 2), (3, 0))).transpose(1, 2)


class LinearAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x):
        q, k, v = self.project(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        sums = (k[..., :, None] * v[..., None, :]).cumsum(1)
        return (q[..., None, :] @ sums)[..., 0, :] / (q * k.cumsum(1)).sum(-1, keepdim=True)


class Net(nn.Module):
    """Tokens int64 [b, T] -> logits [b, T, V]; with two heads out, log-probabilities of a mixture."""

    def __init__(self, mixer, heads_out=1):
        super().__init__()
        self.embed, self.mixer = nn.Embedding(V, WIDTH), mixer
        self.out = nn.ModuleList(nn.Linear(WIDTH, V) for _ in range(heads_out))

    def forward(self, tokens):
        x = self.embed(tokens)
        x = F.rms_norm(x + self.mixer(F.rms_norm(x, (WIDTH,))), (WIDTH,))
        if len(self.out) == 1:
            return self.out[0](x)
        share = torch.sigmoid(x[..., :1])
        mixed = share * self.out[0](x).softmax(-1) + (1 - share) * self.out[1](x).softmax(-1)
        return mixed.log()


def trained(mixer, heads_out=1):
    net = Net(mixer, heads_out)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    rows = start()
    for step in range(STEPS):
        batch = torch.from_numpy(rows[step * BATCH : (step + 1) * BATCH].astype(np.int64))
        loss = F.cross_entropy(net(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


def in_bfloat16(tokens):
    with torch.autocast("cpu", torch.bfloat16):
        return net(tokens)


def evaluate(model):
    session.evaluate(model, BATCH)
