"""From a config's images to the records of a cache: the models, the data, and the header."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh

from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data import pipeline
from toklip_jax.data.build import make_tokenizer, training_transform
from toklip_jax.data.cache import Field, Header, lay_out
from toklip_jax.data.decode import RESIZES, Decode
from toklip_jax.data.draws import Draws, Ranges
from toklip_jax.data.health import BadSamples
from toklip_jax.data.reader import Reader
from toklip_jax.data.sources import build_source, cache_directories, is_raw
from toklip_jax.data.text import TOKENIZER_FILE, TextTokenizer
from toklip_jax.data.transforms import FirstCaption, Transform
from toklip_jax.evaluation.encode import Progress
from toklip_jax.nn.config import Compute
from toklip_jax.parallel.sharding import AXES, put_batch
from toklip_jax.run.stages import STAGE_PREFIX, build_stage, model_path
from toklip_jax.tasks.toklip.cached import parts_of, untouched
from toklip_jax.tasks.toklip.objective import CACHED, TokLIPObjective
from toklip_jax.training.loop import LoopConfig
from toklip_jax.training.state import (
    Params,
    cast_frozen,
    partition,
    place,
    shapes_of,
    split,
    with_zeros,
)
from toklip_jax.weights.fingerprints import fingerprint_params

SMALL = 2**16  # ids below it take two bytes
INPUTS = ("images", "token_ids")  # of a batch: what devices get
KEPT = ("token_ids", "labels", "index")  # of a batch: what goes into records as it is


@dataclasses.dataclass(frozen=True)
class EncodeConfig:
    """The config's section `encode`.

    Attributes:
        stage: the toklip stage whose models and augmentation are taken.
        crops: of each image; training takes one at random every epoch.
        features: of `objectives.CACHED`, to be kept besides ids.
        feature_dtype: bfloat16, or float32.
        has_text: without, nothing can be trained on the cache, but evaluated.
        resize: "" for random crops; or "squash" or "crop", whole pictures as evaluations see them.
        batch_size: images that a process encodes at once, one crop after another.
        records_per_shard: images of a file; what a process that is killed loses at most.
    """

    stage: str = "toklip"
    crops: int = 1
    features: tuple[str, ...] = CACHED
    feature_dtype: str = "bfloat16"
    has_text: bool = True
    resize: str = ""
    batch_size: int = 256
    records_per_shard: int = 16_384

    def __post_init__(self):
        for feature in self.features:
            check_name("encode.features", feature, CACHED)
        check_name("encode.feature_dtype", self.feature_dtype, ("bfloat16", "float32"))
        check_name("encode.resize", self.resize, ("", *RESIZES))
        if min(self.crops, self.batch_size, self.records_per_shard) < 1:
            raise ValueError(
                f"expected encode.crops, batch_size and records_per_shard of at least 1, got {self}"
            )
        if self.resize and self.crops > 1:
            raise ValueError(
                f"expected encode.crops 1 with resize {self.resize!r}, got {self.crops}"
            )
        if self.records_per_shard % self.batch_size:
            raise ValueError(
                f"expected encode.records_per_shard to be a multiple of encode.batch_size "
                f"{self.batch_size}, got {self.records_per_shard}"
            )
        if "text_feature" in self.features and not self.has_text:
            raise ValueError("expected no text_feature in encode.features without has_text, got it")


class CacheEncoder:
    """What turns the source of a config into records, with this process's devices alone.

    Attributes:
        header: of the cache.
        tokenizer: of its captions, or None.
        max_bad_share: of samples that can't be read, from the stage's `loop`.
    """

    def __init__(self, config: ml_collections.ConfigDict, workdir: pathlib.Path):
        """Reads the models, opens the source, and reads its first good sample.

        Args:
            config: what `configs/*.py` return.
            workdir: of a run whose stages `init` may name.

        Raises:
            ValueError: from the config; says what to change.
        """
        section = config.get("encode", ml_collections.ConfigDict()).to_dict()
        self._section = from_fields(EncodeConfig, section, "encode")
        self._stage = _toklip_stage(config, self._section.stage)
        self._config, self._mesh = config, _local_mesh()
        if self._section.batch_size % self._mesh.size:
            raise ValueError(
                f"expected encode.batch_size to be a multiple of this host's {self._mesh.size} "
                f"devices, got {self._section.batch_size}"
            )
        self.max_bad_share = from_fields(
            LoopConfig, self._stage.loop.to_dict(), "loop"
        ).max_bad_share
        self._source_config = _plain(config.source)
        if cache_directories(self._source_config):
            raise ValueError("expected a source of images to encode, got a cache")
        self.tokenizer = _tokenizer(config, workdir) if self._section.has_text else None
        self._source = build_source(self._source_config, self.tokenizer)
        compute = from_fields(Compute, config.compute.to_dict(), "compute")
        _expect_stages(self._stage, workdir)
        self._objective, params = build_stage(
            *(self._stage, compute, workdir, self._mesh, config.seed)
        )
        _expect_frozen(self._objective, params, self._section.features)
        crops, is_encoded = self._section.crops, is_raw(self._source_config)
        self._draws = Draws(self._transform(), crops, config.seed, is_encoded or crops == 1)
        first = Reader(Ranges(self._source, [range(len(self._source))]), self._draws)
        probe = first(0, np.random.default_rng(0))  # it shows which fields there are
        self.header = self._describe(params, probe)
        self._rows = functools.partial(encode_rows, self._objective, self._section)
        self._params = self._place(params, probe)

    def shards(self, numbers: Sequence[int], bad: BadSamples) -> Iterator[tuple[int, list[bytes]]]:
        """Yields the number and the records of these shards, counting in `bad` what has none."""
        size, batch_size = self._section.records_per_shard, self._section.batch_size
        ranges = [range(i * size, min((i + 1) * size, len(self._source))) for i in numbers]
        bad.add(0, getattr(self._source, "problems", []))
        if not ranges:
            return
        # One stream for all: a batch lies within a shard, as only the last shard is ragged.
        source = Ranges(self._source, ranges)
        workers = self._config.num_workers
        stream = pipeline.evaluation_batches(source, batch_size, self._draws, workers)
        encoded = self._encoded(stream, bad)
        try:
            with Progress("encode", -(-len(source) // batch_size), 0) as progress:
                for number, inside in zip(numbers, ranges, strict=True):
                    records: list[bytes] = []
                    for _ in range(-(-len(inside) // batch_size)):
                        records += self._pack(*next(encoded))
                        progress.advance()
                    yield number, records
        finally:
            stream.close()

    def _encoded(self, stream, bad):
        """Yields (batch, what was made of it), one batch behind, so that devices don't wait."""
        rows = jax.jit(lambda params, batch: self._rows(with_zeros(params, self._unused), batch))
        named, last = set(), None
        for batch in stream:
            # A sample that others were to stand in for comes again in its own row.
            new = [problem for problem in batch.get("skipped", []) if problem not in named]
            named.update(new)
            bad.add(int(batch["mask"].sum()), new)
            with jax.set_mesh(self._mesh):
                made = rows(self._params, put_batch(_inputs(batch), self._mesh))
            if last is not None:
                yield last
            last = batch, made
        if last is not None:
            yield last

    def _pack(self, batch, made) -> list[bytes]:
        count = len(batch["mask"])
        arrays = {name: np.asarray(array) for name, array in made.items()}  # [b, count, ...]
        for name in KEPT:
            if name in batch:
                shape = (-1, *next(f.shape for f in self.header.fields if f.name == name))
                arrays[name] = batch[name].reshape(count, *shape)
        captions = batch.get("caption", [""] * count)
        return [
            self.header.pack({n: array[row] for n, array in arrays.items()}, str(captions[row]))
            for row in np.flatnonzero(batch["mask"])
        ]

    def _transform(self) -> Transform:
        section, vision = self._section, self._objective.model_config.vision
        size = self._config.get("image_size", 0) or vision.image_size
        if not section.resize:
            augment, has_text = self._stage.augment.to_dict(), section.has_text
            return training_transform(
                *(self._source_config, size, self.tokenizer, has_text, augment)
            )
        if is_raw(self._source_config):
            return Decode(size, False, self.tokenizer, resize=section.resize)
        return FirstCaption()

    def _place(self, params, probe) -> Params:
        """The parameters that encoding takes, on the devices."""
        shapes = {
            name: jax.ShapeDtypeStruct((self._section.batch_size, *value.shape), value.dtype)
            for name, value in _inputs(probe).items()
        }
        unused, needed = split(params, untouched(self._rows, params, shapes))
        self._unused = shapes_of(unused)
        return place(cast_frozen(needed, self._objective.compute), self._mesh)

    def _describe(self, params, probe) -> Header:
        section, config, compute = self._section, self._config, self._objective.compute
        model, side = self._objective.model_config, probe["images"].shape[1]
        if side != model.vision.image_size:
            raise ValueError(
                f"expected images of {model.vision.image_size} px, the model's, got {side}: set "
                f"the config's image_size"
            )
        parts = parts_of(("ids", *section.features))
        hashes = {part: fingerprint_params(params[part]) for part in parts}
        if self.tokenizer:
            hashes["tokenizer"] = self.tokenizer.fingerprint
        augment = {} if section.resize else _plain(self._stage.augment)
        return Header(
            num_samples=len(self._source),
            records_per_shard=section.records_per_shard,
            crops=section.crops,
            image_size=side,
            num_tokens=model.vision.num_tokens,
            codebook_size=model.vq.codebook_size,
            context_length=probe["token_ids"].shape[1] if "token_ids" in probe else 0,
            fields=self._fields(probe),
            has_captions="caption" in probe,
            hashes=hashes,
            transform={"augment": augment, "resize": section.resize, "seed": config.seed},
            compute={"dtype": compute.dtype, "vq_dtype": compute.vq_dtype},
            source=self._source_config,
            classes=tuple(getattr(self._source, "classes", None) or ()),
        )

    def _fields(self, probe) -> tuple[Field, ...]:
        section, model = self._section, self._objective.model_config
        ids = "uint16" if model.vq.codebook_size <= SMALL else "uint32"
        fields = [
            Field("index", "int64", ()),
            Field("ids", ids, (model.vision.num_tokens,), section.crops),
        ]
        if "labels" in probe:
            fields.append(Field("labels", "int32", ()))
        if "teacher_feature" in section.features:
            shape = (model.vision.width,)
            fields.append(Field("teacher_feature", section.feature_dtype, shape, section.crops))
        if "token_ids" in probe:
            texts, length = probe["token_ids"].shape
            words = "uint16" if model.text.vocab_size <= SMALL else "uint32"
            fields.append(Field("token_ids", words, (length,), texts))
            if "text_feature" in section.features:
                shape = (model.text.embed_dim,)
                fields.append(Field("text_feature", section.feature_dtype, shape, texts))
        return lay_out(fields)


def encode_rows(
    objective: TokLIPObjective, section: EncodeConfig, params: Params, batch: dict[str, Any]
) -> dict[str, jax.Array]:
    """Returns what is kept of a batch, arrays [b, crops or 1, ...]; traceable.

    Args:
        batch: `images` [b, crops, h, w, 3], `token_ids` [b, crops or 1, t].
    """
    dtype = jnp.dtype(section.feature_dtype)

    def of_images(images):
        no_text = jnp.zeros((len(images), 1), jnp.int32)
        made = objective.prepare(params, {"images": images, "token_ids": no_text})
        kept = {"ids": made["ids"]}
        if "teacher_feature" in section.features:
            kept["teacher_feature"] = made["teacher_feature"].astype(dtype)
        return kept

    def of_texts(token_ids):
        return {"text_feature": objective.text_feature(params, token_ids).astype(dtype)}

    made = _each(of_images, batch["images"])
    if "text_feature" in section.features:
        made |= _each(of_texts, batch["token_ids"])
    return made


def _each(function, rows):
    """Applies a function of [b, ...] to [b, crops, ...], one crop after another."""
    made = jax.lax.map(function, jnp.moveaxis(rows, 1, 0))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), made)


def _inputs(batch) -> dict[str, np.ndarray]:
    return {name: batch[name] for name in INPUTS if name in batch}


def _plain(section) -> Any:
    """A section as json has it: lists for tuples."""
    return json.loads(json.dumps(section.to_dict()))


def _toklip_stage(config, name):
    if name not in config or config[name].get("objective", "") != "toklip":
        raise ValueError(f"expected encode.stage to name a toklip stage's section, got {name!r}")
    return config[name]


def _expect_stages(stage, workdir):
    for name, source in stage.init.items():
        if source.startswith(STAGE_PREFIX) and not model_path(source, workdir).is_dir():
            raise ValueError(
                f"expected the weights of {source!r}, which init.{name} names, in {workdir}: "
                f"name the run that trained it with --workdir"
            )


def _local_mesh() -> Mesh:
    devices = np.array(jax.local_devices()).reshape(-1, 1, 1)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _tokenizer(config, workdir) -> TextTokenizer | None:
    path = workdir / TOKENIZER_FILE
    if path.is_file():  # the run's, which its stages were trained with
        return TextTokenizer.load(path, config.text.context_length)
    return make_tokenizer(config.text.to_dict(), config.source.to_dict())


def _expect_frozen(objective, params, features):
    trainable, _ = partition(params, objective.trainable)
    if "text_feature" in features and "text_tower" in trainable:
        raise ValueError(
            "expected no text_feature in encode.features where the text tower is trained, got it: "
            "set encode.features=('teacher_feature',)"
        )
