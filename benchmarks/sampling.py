"""Sampling by a generator: ours, as users call it, against a PyTorch loop with its own cache.

    python -m benchmarks.run --suite=generation

The peer is LlamaGen's GPT written with public parts: `scaled_dot_product_attention` over a cache
that is allocated once, fused projections, float32, the same weights; it draws by Gumbel noise too.
Both draw greedily once before anything is timed, and must agree. Without guidance, so that both
have one row for each image.
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.api import Generator
from toklip_jax.models.generator.config import GeneratorConfig
from toklip_jax.models.generator.sizes import SIZES
from toklip_jax.models.registry import init_params
from toklip_jax.nn.config import Compute
from toklip_jax.ops.rotary import rotary_table_2d

SETTINGS = {"tiny": ("gpt_tiny", 8, 8), "b": ("gpt_b_256", 8, 8)}  # size, batch, rounds
BAR = 2.0  # times PyTorch's speed


def measure(name: str) -> dict:
    """Returns the rows of one of `SETTINGS`."""
    size, batch, rounds = SETTINGS[name]
    config = SIZES[size]
    compute = Compute(is_scanned=False)
    params = random_params(lambda key: init_params(config, compute, key))
    head = params["gpt"]["head"]
    head["codes_0"] = head["codes_0"] * 50  # so that greedy ids differ
    generator = Generator(config, jax.tree.map(jnp.asarray, params), compute)
    cases = {"ours": Case(lambda classes: np.asarray(generator.sample(classes=classes, key=1)))}
    problems, checks, quiet = {}, {}, Quiet()
    try:
        peer = Peer(config, params)
        classes = np.arange(batch) % config.gpt.num_classes
        theirs = peer.sample(classes, is_greedy=True)
        own = np.asarray(generator.sample(classes=classes, temperature=0))
        checks["greedy ids that agree"] = float(np.mean(theirs == own))
        assert checks["greedy ids that agree"] > 0.99, checks
        cases["eager"] = Case(lambda classes: peer.sample(classes))
    except ImportError:
        problems["eager"] = "torch is not installed"
    seconds = alternate(
        cases,
        lambda random: (random.integers(0, config.gpt.num_classes, batch),),
        rounds,
        quiet=quiet,
    )
    ids = batch * config.gpt.num_places
    label = f"sampling, {size}, batch {batch}, float32"
    rows = []
    if "eager" in cases:
        rows.append(compare(seconds, "ours", "eager", label, BAR))
    median = float(np.median(seconds["ours"]))
    floor = weight_bytes(config) * config.gpt.num_places / copy_rate()
    rows.append({"what": f"{label}: ids a second", "value": ids / median, **against_bar(0, None)})
    share = {"what": f"{label}: share of the memory floor", "value": floor / median}
    rows.append(share | against_bar(0, None))
    return {
        "machine": machine(),
        "rows": rows,
        "checks": checks,
        "problems": problems,
        "quiet": quiet.record(),
    }


def weight_bytes(config: GeneratorConfig) -> int:
    """Bytes that a step has to read: the transformer's and the head's parameters, float32."""
    from toklip_jax.models.registry import param_shapes

    shapes = param_shapes(config)
    read = [s for path, s in shapes.items() if "/embed/" not in path and "/condition/" not in path]
    return 4 * sum(int(np.prod(shape)) for shape in read)


def copy_rate() -> float:
    """Bytes a second that one reduction over a large array reads, measured."""
    x = jnp.ones(2**27, jnp.float32)
    total = jax.jit(jnp.sum)
    total(x).block_until_ready()
    times = []
    for _ in range(5):
        case = Case(lambda x: total(x).block_until_ready())
        from benchmarks.timing import timed

        times.append(timed(case, (x,)))
    return x.nbytes / min(times)


class Peer:
    """LlamaGen's GPT in PyTorch, with a cache of keys and values."""

    def __init__(self, config: GeneratorConfig, params):
        import torch

        self.torch, self.config, gpt = torch, config.gpt, params["gpt"]

        def tensor(x):
            return torch.from_numpy(np.ascontiguousarray(np.asarray(x, np.float32)))

        self.condition = tensor(gpt["condition"]["embed"])
        self.embed, self.head = tensor(gpt["embed"]["codes_0"]), tensor(gpt["head"]["codes_0"].T)
        self.norm, self.layers = tensor(gpt["norm"]["scale"]), []
        width = self.config.width
        for i in range(self.config.depth):
            block = gpt["stack"][f"blocks_{i}"]
            mlp = block["mlp"]
            self.layers.append(
                {
                    "norm1": tensor(block["norm1"]["scale"]),
                    "norm2": tensor(block["norm2"]["scale"]),
                    "qkv": tensor(block["attn"]["qkv"]["kernel"].reshape(width, -1).T),
                    "proj": tensor(block["attn"]["proj"]["kernel"].reshape(-1, width).T),
                    "gate": tensor(mlp["gate"]["kernel"].T),
                    "fc1": tensor(mlp["fc1"]["kernel"].T),
                    "fc2": tensor(mlp["fc2"]["kernel"].T),
                }
            )
        stack = self.config.stack
        table = rotary_table_2d(
            jnp.arange(self.config.num_positions)[None],
            stack.head_dim,
            stack.rotary_base,
            width=stack.rotary_width,
            prefix=stack.rotary_prefix,
        )
        self.cos, self.sin = tensor(table.cos[0]), tensor(table.sin[0])
        self.eps = stack.norm_eps

    def sample(self, classes, is_greedy: bool = False):
        """Returns ids, int64 [b, n]."""
        torch, gpt = self.torch, self.config
        heads, size = gpt.num_heads, gpt.stack.head_dim
        b = len(classes)
        shape = (b, heads, gpt.num_positions, size)
        caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in self.layers]
        x, ids = self.condition[torch.as_tensor(np.asarray(classes))], []
        with torch.inference_mode():
            for place in range(gpt.num_places):
                logits = self._step(x, place, caches)
                if not is_greedy:
                    logits = logits - torch.log(torch.empty_like(logits).exponential_())
                ids.append(torch.argmax(logits, dim=-1))
                x = self.embed[ids[-1]]
        return torch.stack(ids, dim=1).numpy()

    def _step(self, x, place, caches):
        torch = self.torch
        functional = torch.nn.functional
        for layer, (keys, values) in zip(self.layers, caches, strict=True):
            y = functional.linear(self._normed(x, layer["norm1"]), layer["qkv"])
            q, k, v = y.view(len(x), 3, self.config.num_heads, -1).unbind(1)
            keys[:, :, place], values[:, :, place] = self._rotated(k, place), v
            y = functional.scaled_dot_product_attention(
                self._rotated(q, place)[:, :, None],
                keys[:, :, : place + 1],
                values[:, :, : place + 1],
            )
            x = x + functional.linear(y.reshape(len(x), -1), layer["proj"])
            y = self._normed(x, layer["norm2"])
            hidden = functional.silu(functional.linear(y, layer["gate"]))
            x = x + functional.linear(hidden * functional.linear(y, layer["fc1"]), layer["fc2"])
        return functional.linear(self._normed(x, self.norm), self.head)

    def _normed(self, x, scale):
        return x * self.torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * scale

    def _rotated(self, x, place):
        first, second = x[..., ::2], x[..., 1::2]
        cos, sin = self.cos[place], self.sin[place]
        rotated = self.torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
        return rotated.flatten(-2)
