"""A whole training step, AdamW included: ours against the PyTorch recipe's.

    python -m benchmarks.run --suite=cpu --only=train_step

On a CPU the model is S-256 at half its widths, which leaves the parts' shares of the FLOPs as they
are; on a GPU it is S-256. Both sides start from the same weights, and their first losses are
compared before anything is timed. Ours is the step that training jits, on a mesh of one device.
"""

import dataclasses
import importlib.util
import statistics
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.costs.chips import chip
from toklip_jax.costs.flops import count_flops
from toklip_jax.models.llamagen.config import LlamaGenConfig
from toklip_jax.models.siglip.config import TextConfig, VisionConfig
from toklip_jax.models.siglip.sizes import so400m
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import make_mesh, put_batch
from toklip_jax.tasks.toklip.objective import TokLIPObjective
from toklip_jax.training.optimizer import OptimizerConfig
from toklip_jax.training.state import cast_frozen, partition, place
from toklip_jax.training.step import create_state, jit_step, make_step

OPTIMIZER, STEPS = OptimizerConfig(), 10_000


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement.

    Attributes:
        peers: contenders: "eager", "compile".
        bars: contender to how many times faster we have to be.
        mfu: share of the chip's peak that the model's FLOPs have to reach, or None.
    """

    size: TokLIPConfig
    teacher: VisionConfig
    compute: Compute
    batch: int
    peers: tuple[str, ...]
    bars: dict[str, float]
    mfu: float | None = None
    repetitions: int = 8

    def rehearsed(self) -> "Setting":
        """The same at one layer, a batch of 8 at most and one round: whether it runs, not how."""
        model = self.size
        size = dataclasses.replace(
            model,
            vision=dataclasses.replace(model.vision, depth=1),
            text=dataclasses.replace(model.text, depth=1),
        )
        return dataclasses.replace(
            self,
            size=size,
            teacher=dataclasses.replace(self.teacher, depth=1),
            batch=min(self.batch, 8),
            repetitions=1,
        )


HALF = TokLIPConfig(
    LlamaGenConfig(channels=64, z_channels=128),
    VisionConfig(576, 27, 8, is_causal=True),
    TextConfig(576, 27, 8, vocab_size=32_000),
    has_logit_bias=False,
)
S_256 = dataclasses.replace(TOKLIP_SIZES["toklip_s_256"], has_logit_bias=False)
F32 = Compute()
# By the compiler's count, keeping everything moves twice the bytes (docs/scaling.md).
BF16 = Compute(dtype="bfloat16", vq_dtype="bfloat16", remat="dots")
GPU = Setting(S_256, so400m(256, False), BF16, 32, ("eager",), {"eager": 1.3}, 0.5, 10)
SETTINGS = {
    "cpu": Setting(HALF, VisionConfig(576, 27, 8), F32, 4, ("eager",), {"eager": 1.3}),
    "gpu": GPU,
    "gpu_compile": dataclasses.replace(GPU, peers=("compile",), bars={}),
}


def measure(name: str, is_rehearsal: bool = False) -> dict:
    """Returns the rows of one of `SETTINGS`."""
    setting = SETTINGS[name].rehearsed() if is_rehearsal else SETTINGS[name]
    return {"machine": machine(), **measure_setting(setting)}


def measure_setting(setting: Setting) -> dict:
    """Returns rows of the table, the first losses and the contenders that failed."""
    objective = objective_of(setting)
    params = random_params(lambda key: objective.init(key))
    mesh, quiet = make_mesh({"data": 1}, jax.devices()[:1]), Quiet()
    with jax.set_mesh(mesh):
        ours = Ours(objective, params, mesh)
        cases, losses, problems = contenders(setting, objective, params, ours)
        seconds = alternate(
            cases, lambda random: draw(setting, random), setting.repetitions, 2, quiet
        )
        flops = ours.flops(draw(setting, np.random.default_rng(0)))
    label = f"train step, {setting.size.vision.width} wide, batch {setting.batch}"
    label = f"{label}, {setting.compute.dtype}"
    rows = [
        compare(seconds, "ours", kind, label, setting.bars.get(kind))
        for kind in cases
        if kind != "ours"
    ]
    rate = flops / statistics.median(seconds["ours"])
    rows.append({"what": f"{label}: model FLOP/s", "value": rate})
    if spec := chip(jax.devices()[0].device_kind):
        mfu = rate / spec.bf16_flops
        rows.append({"what": f"{label}: MFU", "value": mfu} | against_bar(mfu, setting.mfu))
    return {
        "rows": rows,
        "first_losses": losses,
        "flops": flops,
        "problems": problems,
        "quiet": quiet.record(),
    }


def objective_of(setting: Setting) -> TokLIPObjective:
    """The released recipe's."""
    return TokLIPObjective(setting.size, setting.teacher, setting.compute)


class Ours:
    """Our step with its state, which each call moves on."""

    def __init__(self, objective: TokLIPObjective, params: dict[str, Any], mesh: Any):
        self._mesh = mesh
        self._step = make_step(objective, OPTIMIZER, STEPS)
        trainable, frozen = partition(params, objective.trainable)
        rules = objective.sharding
        cast = jax.jit(lambda p: cast_frozen(p, objective.compute, objective.full_precision))
        self._frozen = cast(place(frozen, mesh, rules))
        create = jax.jit(lambda p: create_state(p, OPTIMIZER, STEPS))
        self._state = create(place(trainable, mesh, rules))
        self._jitted = jit_step(self._step, mesh, self._state, self._frozen, rules)

    def __call__(self, batch: dict[str, jax.Array]) -> float:
        self._state, metrics = self._jitted(self._state, self._frozen, batch)
        return float(metrics["loss"])

    def place(self, images: np.ndarray, token_ids: np.ndarray) -> tuple[dict[str, jax.Array]]:
        return (put_batch({"images": images, "token_ids": token_ids}, self._mesh),)

    def flops(self, inputs: tuple[np.ndarray, np.ndarray]) -> int:
        return count_flops(self._step, self._state, self._frozen, *self.place(*inputs))


def draw(setting: Setting, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns images, uint8, and token ids, int32."""
    side, text = setting.size.vision.image_size, setting.size.text
    images = random.integers(0, 256, (setting.batch, side, side, 3), np.uint8)
    shape = (setting.batch, text.context_length)
    return images, random.integers(0, text.vocab_size, shape, np.int32)


def contenders(
    setting: Setting, objective: TokLIPObjective, params: dict[str, Any], ours: Ours
) -> tuple[dict[str, Case], dict[str, float], dict[str, str]]:
    """Returns (contenders, their losses on one batch, those that failed and why)."""
    inputs = draw(setting, np.random.default_rng(0))
    losses, problems = {"ours": ours(*ours.place(*inputs))}, {}
    cases = {"ours": Case(ours, ours.place)}
    if setting.peers and importlib.util.find_spec("torch") is None:
        return cases, losses, dict.fromkeys(setting.peers, "torch is not installed")
    for kind in setting.peers:
        try:
            case = _peer(objective, params, kind)
            losses[kind] = case.run(*case.place(*inputs))
            _check(losses["ours"], losses[kind], setting.compute)
            cases[kind] = case
        except (
            Exception
        ) as error:  # a compiler may be missing or fail: said, and the rest continues
            problems[kind] = f"{type(error).__name__}: {str(error)[:500]}"
    return cases, losses, problems


def _check(ours, peer, compute):
    """A loss of lowered precision is another one, mostly by ids that moved over a border."""
    tolerance = 1e-3 if compute.dtype == compute.vq_dtype == "float32" else 0.05
    if not abs(ours - peer) <= tolerance * abs(ours):
        raise ValueError(f"the first losses differ: ours {ours}, the peer's {peer}")


def _peer(objective, params, kind):
    import torch

    from benchmarks.recipe import Recipe

    torch.backends.cudnn.allow_tf32 = False  # float32 is meant as such, as it is in ours
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    wrap = torch.compile if kind == "compile" else (lambda model: model)
    recipe = Recipe(objective, params, OPTIMIZER, device, wrap)

    def place(images, token_ids):
        ids = torch.from_numpy(token_ids).to(device, torch.int64)
        return torch.from_numpy(images).to(device), ids

    return Case(recipe, place)


def abstract_step(setting: Setting, mesh: Any) -> Any:
    """Returns the jitted step lowered for shapes alone: nothing is initialised."""
    objective = objective_of(setting)
    params = jax.eval_shape(objective.init, jax.random.key(0))
    trainable, frozen = partition(params, objective.trainable)
    frozen = jax.eval_shape(
        lambda p: cast_frozen(p, setting.compute, objective.full_precision), frozen
    )
    state = jax.eval_shape(lambda p: create_state(p, OPTIMIZER, STEPS), trainable)
    images, token_ids = jax.eval_shape(
        lambda: jax.tree.map(jnp.asarray, draw(setting, np.random.default_rng(0)))
    )
    step = make_step(objective, OPTIMIZER, STEPS)
    step = jit_step(step, mesh, state, frozen, objective.sharding)
    return step.lower(state, frozen, {"images": images, "token_ids": token_ids})
