"""Sampling by a generator: ours, as users call it, against a PyTorch loop with its own cache.

    python -m benchmarks.run --suite=generation

The peer is LlamaGen's GPT written with public parts: `scaled_dot_product_attention` over a cache
that is allocated once, fused projections, the same type and weights; it draws by Gumbel noise too.
Both draw greedily once before anything is timed, and must agree. Without guidance, so that both
have one row for each image. Our own weights kept as int8 are drawn from beside both.
"""

import dataclasses
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine, timed
from benchmarks.weights import random_params
from toklip_jax.api import Generator
from toklip_jax.models.generator.config import GeneratorConfig
from toklip_jax.models.generator.sizes import SIZES
from toklip_jax.models.registry import init_params, param_shapes
from toklip_jax.nn.config import Compute
from toklip_jax.ops.rotary import rotary_table_2d
from toklip_jax.weights import Weights


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement.

    Attributes:
        size: name of the generator's.
        batches: rows, each timed on its own.
        rounds: repetitions that count.
        dtype: of parameters, activations and caches, on both sides.
        bars: (times PyTorch's speed, share of the memory floor) to reach at each batch, or None.
    """

    size: str
    batches: tuple[int, ...] = (8,)
    rounds: int = 8
    dtype: str = "float32"
    bars: tuple[float | None, float | None] = (2.0, None)


SETTINGS = {
    "tiny": Setting("gpt_tiny"),
    "b": Setting("gpt_b_256"),
    **{
        f"gpu_{size}": Setting(f"gpt_{size}_256", (1, 16, 64), 3, "bfloat16", (None, 0.5))
        for size in ("b", "l", "xl")
    },
}


def measure(name: str, is_rehearsal: bool = False) -> dict:
    """Returns the rows of one of `SETTINGS`.

    Args:
        is_rehearsal: a layer and a round of batches of 2: whether it runs, not how fast.
    """
    rate, quiet = read_rate(), Quiet()
    rows, checks, problems = measure_setting(SETTINGS[name], rate, quiet, is_rehearsal)
    return {
        "machine": machine(),
        "read": rate,
        "rows": rows,
        "checks": checks,
        "problems": problems,
        "quiet": quiet.record(),
    }


def measure_setting(
    setting: Setting, rate: float, quiet: Quiet, is_rehearsal: bool
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, str]]:
    """Returns (rows of the table, what was checked, contenders that failed and why)."""
    config = SIZES[setting.size]
    batches, rounds = setting.batches, setting.rounds
    if is_rehearsal:
        config = dataclasses.replace(config, gpt=dataclasses.replace(config.gpt, depth=1))
        batches, rounds = (2,), 1
    compute = Compute(dtype=setting.dtype, vq_dtype=setting.dtype, is_scanned=False)
    params = random_params(lambda key: init_params(config, compute, key))
    head = params["gpt"]["head"]
    head["codes_0"] = head["codes_0"] * 50  # so that greedy ids differ
    placed = jax.tree.map(lambda x: jnp.asarray(x, compute.jax_dtype), params)
    generator = Generator(config, placed, compute)
    peer, rows, checks, problems = None, [], {}, {}
    try:
        peer = Peer(config, params, setting.dtype)
    except ImportError:
        problems["eager"] = "torch is not installed"
    int8 = None
    try:
        int8 = as_int8(config, params, setting.dtype)
    except ValueError as error:
        problems["int8"] = str(error)  # qwix is not installed
    for batch in batches:
        label = f"sampling, {setting.size}, batch {batch}, {setting.dtype}"
        cases = {"ours": Case(lambda classes: np.asarray(generator.sample(classes=classes, key=1)))}
        if peer is not None:
            cases["eager"] = Case(peer.sample)
            checks[f"{label}: greedy ids that agree"] = check(generator, peer, batch, setting.dtype)
        if int8 is not None:
            cases["int8"] = Case(lambda classes: np.asarray(int8.sample(classes=classes, key=1)))
        seconds = alternate(
            cases,
            lambda random, batch=batch: (random.integers(0, config.gpt.num_classes, batch),),
            rounds,
            quiet=quiet,
        )
        if "eager" in cases:
            rows.append(compare(seconds, "ours", "eager", label, setting.bars[0]))
        if int8 is not None:
            label_of_int8 = f"{label}: int8 weights beside {setting.dtype}"
            rows.append(compare(seconds, "int8", "ours", label_of_int8, None))
        median = statistics.median(seconds["ours"])
        value = batch * config.gpt.num_places / median
        rows.append({"what": f"{label}: ids a second", "value": value, **against_bar(0, None)})
        share = read_bytes(config, batch, compute) / rate / median
        row = {"what": f"{label}: share of the memory floor", "value": share}
        rows.append(row | against_bar(share, setting.bars[1]))
    return rows, checks, problems


def as_int8(config: GeneratorConfig, params: dict[str, Any], dtype: str) -> Generator:
    """Returns the generator with the weights of its products as int8."""
    weights = Weights(config, params, is_scanned=False)
    return Generator.from_weights(weights, dtype=dtype, param_dtype="int8")


def check(generator: Generator, peer: "Peer", batch: int, dtype: str) -> float:
    """Returns the share of greedy ids that agree; raises ValueError where too few do.

    In bfloat16 near ties fall differently, and what follows a different id differs: the first ids,
    of the condition alone, have to agree mostly.
    """
    classes = np.arange(batch) % generator.config.gpt.num_classes
    theirs = peer.sample(classes, is_greedy=True)
    own = np.asarray(generator.sample(classes=classes, temperature=0))
    share = float(np.mean(theirs == own))
    least = share if dtype == "float32" else float(np.mean(theirs[:, 0] == own[:, 0]))
    if least < (0.99 if dtype == "float32" else 0.75):
        raise ValueError(f"greedy ids differ from PyTorch's: {share:.3f} agree, first {least:.3f}")
    return share


def read_bytes(config: GeneratorConfig, batch: int, compute: Compute) -> int:
    """Bytes that drawing the images has to read: at each place the weights, and what is cached.

    The transformer's and the head's parameters, and the keys and values of the places before.
    """
    gpt, size = config.gpt, compute.jax_dtype.itemsize
    shapes = param_shapes(config)
    read = [s for path, s in shapes.items() if "/embed/" not in path and "/condition/" not in path]
    weights = sum(int(np.prod(shape)) for shape in read)
    cached = sum(range(gpt.num_positions)) * 2 * gpt.depth * gpt.width * batch
    return size * (gpt.num_places * weights + cached)


def read_rate() -> float:
    """Bytes a second that one reduction over a large array reads, measured."""
    x = jnp.ones(2**28, jnp.float32)
    total = jax.jit(jnp.sum)
    case = Case(lambda x: total(x).block_until_ready())
    timed(case, (x,))
    return x.nbytes / min(timed(case, (x,)) for _ in range(5))


class Peer:
    """LlamaGen's GPT in PyTorch, with a cache of keys and values."""

    def __init__(self, config: GeneratorConfig, params: dict[str, Any], dtype: str):
        import torch

        self.torch, self.config, gpt = torch, config.gpt, params["gpt"]
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.where = {"device": device, "dtype": getattr(torch, dtype)}

        def tensor(x):
            x = np.ascontiguousarray(np.asarray(x, np.float32))
            return torch.from_numpy(x).to(**self.where)

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
        caches = [[torch.zeros(shape, **self.where) for _ in range(2)] for _ in self.layers]
        classes = torch.as_tensor(np.asarray(classes), device=self.where["device"])
        x, ids = self.condition[classes], []
        with torch.inference_mode():
            for place in range(gpt.num_places):
                logits = self._step(x, place, caches).float()
                if not is_greedy:
                    logits = logits - torch.log(torch.empty_like(logits).exponential_())
                ids.append(torch.argmax(logits, dim=-1))
                x = self.embed[ids[-1]]
        return torch.stack(ids, dim=1).cpu().numpy()

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
        exact = x.float()
        exact = exact * self.torch.rsqrt(exact.pow(2).mean(-1, keepdim=True) + self.eps)
        return exact.to(x.dtype) * scale

    def _rotated(self, x, place):
        first, second = x[..., ::2], x[..., 1::2]
        cos, sin = self.cos[place], self.sin[place]
        rotated = self.torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
        return rotated.flatten(-2)
