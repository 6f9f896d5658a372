"""Images to ids, and ids to tokens to a feature: ours as users call it against PyTorch.

    python -m benchmarks.run --suite=cpu --only=inference

Both hold the same random weights and are checked against each other before anything is timed. The
PyTorch side is `benchmarks.peers`, eager and compiled. Ours is `Tokenizer.tokenize` and
`Tokenizer.image_features(ids=...)`, images being NumPy arrays on a CPU and on the device elsewhere,
with layers one by one, as `load` has those of a released file. The text tower takes no part and is
left out on both sides.
"""

import copy
import dataclasses
import importlib.util
import statistics

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import limits
from benchmarks.timing import Case, Quiet, against_bar, alternate, compare, machine
from benchmarks.weights import random_params
from toklip_jax.api import Tokenizer
from toklip_jax.costs.flops import count_flops
from toklip_jax.models.toklip.config import TokLIPConfig
from toklip_jax.models.toklip.model import TokLIP
from toklip_jax.models.toklip.sizes import SIZES as TOKLIP_SIZES
from toklip_jax.nn.config import Compute

STAGES = ("images to ids", "ids to feature")
WHOLE = "images to feature"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One measurement.

    Attributes:
        peers: batch size to the contenders there: "eager", "channels_last" (eager, with
            convolutions in that layout), "compile".
        bars: contender to how many times faster we have to be, from images and from ids to the
            feature.
        share: of the measured matrix product's rate that we have to reach, or None.
        stages: which of `STAGES` are timed.
    """

    size: TokLIPConfig
    compute: Compute
    peers: dict[int, tuple[str, ...]]
    bars: dict[str, float]
    share: float | None = None
    repetitions: int = 8
    stages: tuple[str, ...] = STAGES

    def rehearsed(self) -> "Setting":
        """The same at one layer, a batch of 8 at most and one round: whether it runs, not how."""
        vision = dataclasses.replace(self.size.vision, depth=1)
        size = dataclasses.replace(self.size, vision=vision)
        peers = {min(batch, 8): kinds for batch, kinds in self.peers.items()}
        return dataclasses.replace(self, size=size, peers=peers, repetitions=1)


S_256 = TOKLIP_SIZES["toklip_s_256"]
F32 = Compute(is_scanned=False)
VQ_F32 = Compute(dtype="bfloat16", is_scanned=False)
BF16 = Compute(dtype="bfloat16", vq_dtype="bfloat16", is_scanned=False)
# Inductor takes minutes to compile 27 layers on two cores. All are alike, so the ratio of six says
# what theirs is.
SIX_LAYERS = dataclasses.replace(S_256, vision=dataclasses.replace(S_256.vision, depth=6))
GPU = Setting(S_256, BF16, {64: ("eager", "channels_last")}, {"eager": 2.0}, 0.55, 20)
SETTINGS = {
    "cpu": Setting(S_256, F32, {1: ("eager",), 8: ("eager",)}, {"eager": 1.0}),
    # Images to ids are the same program as in float32.
    "cpu_bfloat16": Setting(S_256, VQ_F32, {1: ("eager",), 8: ("eager",)}, {}, stages=STAGES[1:]),
    "cpu_compile": Setting(SIX_LAYERS, F32, {1: ("eager", "compile")}, {}),
    "gpu": GPU,
    "gpu_compile": dataclasses.replace(GPU, peers={64: ("compile",)}, bars={"compile": 1.2}),
    # The VQ in float32 products as such, ours by default: ids are then the released model's.
    "gpu_vq_float32": Setting(S_256, VQ_F32, {64: ("eager",)}, {}, None, 10),
}


def measure(name: str, is_rehearsal: bool = False) -> dict:
    """Returns the rows of one of `SETTINGS`."""
    setting = SETTINGS[name].rehearsed() if is_rehearsal else SETTINGS[name]
    return {"machine": machine(), **measure_setting(setting)}


def measure_setting(setting: Setting) -> dict:
    """Returns rows of the table, what was checked, and the floor."""
    params = _params(setting)
    ours = Tokenizer(setting.size, jax.tree.map(jnp.asarray, params), setting.compute)
    model = _peer_model(setting, params)
    del params
    rows, checks, floors, problems, quiet = [], {}, {}, {}, Quiet()
    if setting.compute.dtype != "float32":
        checks["against float32"] = _against_float32(setting, ours)
    for batch, kinds in setting.peers.items():
        cases, checked, failed = _contenders(setting, ours, model, batch, kinds)
        checks[f"batch {batch}"] = checked
        problems |= failed
        seconds = _seconds(setting, cases, batch, quiet)
        depth, compute = setting.size.vision.depth, setting.compute
        label = f"{depth} layers, batch {batch}, {compute.dtype}, VQ {compute.vq_dtype}"
        rows += [
            compare(
                {name: times[stage] for name, times in seconds.items()},
                "ours",
                kind,
                f"{stage}, {label}",
                None if stage == STAGES[0] else setting.bars.get(kind),
            )
            for kind in cases
            if kind != "ours"
            for stage in seconds[kind]
        ]
        own = {stage: statistics.median(times) for stage, times in seconds["ours"].items()}
        floors[f"batch {batch}"], row = _floor(setting, ours, batch, own, label)
        rows += row
    return {
        "rows": rows,
        "checks": checks,
        "floors": floors,
        "problems": problems,
        "quiet": quiet.record(),
    }


def _seconds(setting, cases, batch, quiet):
    """Contender -> stage -> seconds, repetition by repetition; both stages in turn."""
    size = setting.size.vision.image_size

    def images(random):
        return (random.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32),)

    def ids(random):
        shape = (batch, setting.size.vision.num_tokens)
        return (random.integers(0, setting.size.vq.codebook_size, shape).astype(np.int32),)

    seconds = {name: {} for name in cases}
    for stage, draw in zip(STAGES, (images, ids), strict=True):
        if stage not in setting.stages:
            continue
        here = {name: case[stage] for name, case in cases.items()}
        found = alternate(here, draw, setting.repetitions, quiet=quiet)
        for name, times in found.items():
            seconds[name][stage] = times
    if setting.stages == STAGES:
        for times in seconds.values():
            times[WHOLE] = [a + b for a, b in zip(*(times[s] for s in STAGES), strict=True)]
    return seconds


def _params(setting):
    """Returns parameters of the VQ tokenizer and the token encoder."""
    size = setting.size

    def init(key, images, ids):
        return TokLIP(size, setting.compute).init(key, images, ids, method=_run_images)

    side, n = size.vision.image_size, size.vision.num_tokens
    return random_params(
        init,
        jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32),
        jax.ShapeDtypeStruct((1, n), jnp.int32),
    )["params"]


def _run_images(model, images, ids):
    return model.vq(images), model.image_features(ids)


def _ours(tokenizer):
    """Images already on the device elsewhere than on a CPU, where there is nothing to move."""
    put = (lambda x: x) if jax.default_backend() == "cpu" else jax.device_put
    return {
        STAGES[0]: Case(
            lambda images: tokenizer.tokenize(images).block_until_ready(),
            lambda images: (put(images),),
        ),
        STAGES[1]: Case(lambda ids: tokenizer.image_features(ids=ids).block_until_ready()),
    }


def _contenders(setting, ours, model, batch, kinds):
    """Returns (contenders, what the checks found, contenders that failed and why)."""
    cases, checks, problems = {"ours": _ours(ours)}, {}, {}
    if model is None:
        return cases, checks, dict.fromkeys(kinds, "torch is not installed")
    for kind in kinds:
        try:
            case = _peer(model, kind)
            checks[kind] = _check(setting, cases["ours"], case, batch)
            cases[kind] = case
        except (
            Exception
        ) as error:  # a compiler may be missing or fail: said, and the rest continues
            problems[kind] = f"batch {batch}: {type(error).__name__}: {str(error)[:500]}"
    return cases, checks, problems


def _check(setting, ours, peer, batch):
    """Both see the same images, then the same ids; raises ValueError where they differ."""
    size = setting.size.vision.image_size
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)

    def run(cases, stage, inputs):
        out = cases[stage].run(*cases[stage].place(inputs))
        return np.asarray(out.cpu() if hasattr(out, "cpu") else out)

    ids = [run(cases, STAGES[0], images) for cases in (ours, peer)]
    features = [run(cases, STAGES[1], ids[0]) for cases in (ours, peer)]
    equal = float(np.mean(ids[0] == ids[1]))
    cosine = float(np.min(np.sum(features[0] * features[1], axis=-1)))
    # Lowered precision moves latents over borders between codes; features have to stay.
    least = 0.999 if setting.compute.vq_dtype == "float32" else 0.7
    close = 0.99999 if setting.compute.dtype == "float32" else 0.99
    if equal < least or cosine < close:
        raise ValueError(f"differs from ours: {equal:.4f} of the ids equal, cosine {cosine:.6f}")
    return {"equal_ids": equal, "least_cosine": cosine, "codes_met": len(np.unique(ids[0]))}


def _against_float32(setting, ours, batch=2):
    """How far our ids and features are from those that we compute in float32."""
    exact = Tokenizer(setting.size, ours.params, F32)
    size = setting.size.vision.image_size
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (batch, size, size, 3)).astype(np.float32)
    ids = [np.asarray(each.tokenize(images)) for each in (exact, ours)]
    features = [np.asarray(each.image_features(images)) for each in (exact, ours)]
    return {
        "equal_ids": float(np.mean(ids[0] == ids[1])),
        "least_cosine": float(np.min(np.sum(features[0] * features[1], axis=-1))),
        "largest_error": float(np.max(np.abs(features[0] - features[1]))),
    }


def _peer_model(setting, params):
    """One for all contenders, or None where there is no torch or none is asked for."""
    if not any(setting.peers.values()) or importlib.util.find_spec("torch") is None:
        return None
    import torch

    from benchmarks import peer_weights, peers

    torch.backends.cudnn.allow_tf32 = False  # float32 is meant as such, as it is in ours
    model = peers.Tokenizer(setting.size).eval().requires_grad_(False)
    peer_weights.copy_weights(params, model)
    model.token_encoder.to(getattr(torch, setting.compute.dtype))
    model.vq.to(getattr(torch, setting.compute.vq_dtype))
    model.vq.parts.quantize.float()  # distances are float32 in both
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _peer(model, kind):
    import torch

    weight, is_last = model.vq.parts.quant_conv.weight, kind == "channels_last"
    layout = torch.channels_last if is_last else torch.contiguous_format
    vq = copy.deepcopy(model.vq).to(memory_format=layout) if is_last else model.vq
    stages = [torch.no_grad()(vq), torch.no_grad()(model.image_features)]
    if kind == "compile":
        stages = [torch.compile(stage, dynamic=False) for stage in stages]

    def finished(run):
        def call(inputs):
            out = run(inputs)
            if weight.is_cuda:
                torch.cuda.synchronize()
            return out

        return call

    def place_images(images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2).to(weight)
        return (x.contiguous(memory_format=layout),)

    def place_ids(ids):
        return (torch.from_numpy(np.array(ids)).to(weight.device, torch.int64),)

    return {
        STAGES[0]: Case(finished(stages[0]), place_images),
        STAGES[1]: Case(finished(stages[1]), place_ids),
    }


def _last(setting):
    """The row that says what all timed stages take together."""
    return WHOLE if setting.stages == STAGES else setting.stages[-1]


def _floor(setting, ours, batch, own, label):
    """The least time that this machine's rates allow, and what share of them we reach."""
    side, n = setting.size.vision.image_size, setting.size.vision.num_tokens
    flops = {
        stage: count_flops(
            lambda p, x, method=method: ours.model.apply({"params": p}, x, method=method),
            ours.params,
            jax.ShapeDtypeStruct((batch, *shape), dtype),
        )
        for stage, method, shape, dtype in (
            (STAGES[0], "tokenize", (side, side, 3), jnp.float32),
            (STAGES[1], "image_features", (n,), jnp.int32),
        )
    }
    found = limits.rates(setting.size, batch, setting.compute)
    floor = {
        STAGES[0]: flops[STAGES[0]] / found["convolution"],
        STAGES[1]: flops[STAGES[1]] / found["product"],
    }
    floor[WHOLE] = sum(floor.values())
    share = sum(flops[s] for s in setting.stages) / own[_last(setting)] / found["product"]
    row = {"what": f"share of the measured product's rate, {label}", "value": share}
    return (
        {
            "flops": flops,
            "rates": found,
            "floor_seconds": floor,
            "ours_seconds": own,
            "share_of_floor": {stage: floor[stage] / own[stage] for stage in own},
        },
        [row | against_bar(share, setting.share)],
    )
