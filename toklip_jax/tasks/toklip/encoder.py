"""Encodes images into the records of a cache: sets up models, data and header."""

import functools
import json
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.data import pipeline
from toklip_jax.data.build import training_transform
from toklip_jax.data.cache import DATA, Field, Header, id_dtype, lay_out
from toklip_jax.data.config import ReadingConfig
from toklip_jax.data.crops import CropSampler, SourceSlices
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.health import BadSamples, name_left_out
from toklip_jax.data.images import Decode, sides_of
from toklip_jax.data.reader import Reader
from toklip_jax.data.sources import ENCODED, IDS, SourceConfig
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import FirstCaption, Transform
from toklip_jax.models.registry import ids_shape
from toklip_jax.models.serialization import config_to_dict
from toklip_jax.parallel.progress import Progress
from toklip_jax.parallel.sharding import put_batch
from toklip_jax.tasks.base import StageConfig
from toklip_jax.tasks.model_objective import ModelObjective
from toklip_jax.tasks.toklip.cached import untouched
from toklip_jax.tasks.toklip.encode_config import CAPTIONS, EncodeConfig
from toklip_jax.training.state import (
    Params,
    cast_frozen,
    place,
    shapes_of,
    split,
    with_zeros,
)
from toklip_jax.weights.fingerprints import fingerprint_params

INPUTS = ("images", "token_ids")  # of a batch: fields that go to devices
KEPT = ("token_ids", "labels", "index")  # of a batch: fields that are stored unchanged


class CacheEncoder:
    """Turns the source of a config into records, on this process's devices alone.

    Attributes:
        header: the cache's header.
        tokenizer: the tokenizer for its captions, or None.
        max_bad_share: the largest share of unreadable samples, from the stage's `loop`.
    """

    def __init__(
        self,
        stage: StageConfig,
        objective: ModelObjective,
        params: Params,
        *,
        source: SourceConfig,
        config: EncodeConfig,
        reading: ReadingConfig,
        tokenizer: TextTokenizer | None,
        mesh: jax.sharding.Mesh,
        seed: int,
    ):
        """Opens the source, and reads its first good sample.

        Args:
            stage: whose models and augmentation are used.
            objective, params: that it starts from.
            source: the source of images.
            tokenizer: the tokenizer for its captions, or None.
            mesh: a mesh of this process's devices.
            seed: the seed of the crops.

        Raises:
            ValueError: from the config; says what to change.
        """
        self._stage, self._config, self._reading = stage, config, reading
        self._objective, self._mesh, self._seed = objective, mesh, seed
        if config.batch_size % self._mesh.size:
            raise UserError(
                f"expected encode.batch_size to be a multiple of this host's {self._mesh.size} "
                f"devices, got {config.batch_size}"
            )
        if source.gives == IDS:
            raise UserError("expected a source of images to encode, got a cache")
        self.max_bad_share = stage.loop.max_bad_share
        self.tokenizer = tokenizer if config.has_text else None
        self._source_config, self._source = source, source.open(self.tokenizer)
        name_left_out(self._source)
        self._objective.expect_encodable(params, config.features)
        crops, is_encoded = config.crops, source.gives == ENCODED
        self._draws = CropSampler(self._transform(), crops, self._seed, is_encoded or crops == 1)
        samples = Reader(SourceSlices(self._source, [range(len(self._source))]), self._draws)
        probe = samples(0, np.random.default_rng(0))  # it shows which fields the samples have
        self.header = self._describe(params, probe)
        self._rows = functools.partial(self._objective.cached_fields, config)
        self._params = self._place(params, probe)

    def shards(self, numbers: Sequence[int], bad: BadSamples) -> Iterator[tuple[int, list[bytes]]]:
        """Yields the number and the records of each shard; counts in `bad` samples without one."""
        size, batch_size = self._config.records_per_shard, self._config.batch_size
        ranges = [range(i * size, min((i + 1) * size, len(self._source))) for i in numbers]
        bad.leave_out(getattr(self._source, "problems", []), len(self._source))
        if not ranges:
            return
        # One stream for all: no batch spans two shards, as only the last shard is ragged.
        source = SourceSlices(self._source, ranges)
        workers = self._reading.num_workers
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
        """Yields (batch, its encoded rows), one batch behind, so that devices don't wait."""
        rows = jax.jit(lambda params, batch: self._rows(with_zeros(params, self._unused), batch))
        named, last = set(), None
        for batch in stream:
            # A bad sample is reported again by the row that it should have been.
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
        section, layout = self._config, self._objective.cache_layout
        size = self._reading.image_size or layout.image_size
        shared = {
            "has_labels": section.has_labels and getattr(self._source, "has_labels", False),
            "exif_orientation": self._reading.exif_orientation,
        }
        if not section.resize:
            return training_transform(
                self._source_config,
                size,
                tokenizer=self.tokenizer,
                has_text=section.has_text,
                augment=self._stage.augment,
                **shared,
            )
        if self._source_config.gives == ENCODED:
            return Decode(
                size,
                is_training=False,
                tokenizer=self.tokenizer,
                resize=section.resize,
                **shared,
            )
        return FirstCaption()

    def _place(self, params, probe) -> Params:
        """Returns the parameters that encoding needs, on the devices."""
        shapes = {
            name: jax.ShapeDtypeStruct((self._config.batch_size, *value.shape), value.dtype)
            for name, value in _inputs(probe).items()
        }
        unused, needed = split(params, untouched(self._rows, params, shapes))
        self._unused = shapes_of(unused)
        objective = self._objective
        cast = cast_frozen(needed, objective.compute, objective.full_precision)
        return place(cast, self._mesh, objective.sharding)

    def _describe(self, params, probe) -> Header:
        section, compute = self._config, self._objective.compute
        layout, size = self._objective.cache_layout, probe["images"].shape[1:-1]
        if size != sides_of(layout.image_size):
            raise UserError(
                f"expected images of {sides_of(layout.image_size)} pixels, the model's, got "
                f"{size}: set the config's image_size"
            )
        parts = self._objective.cached_parts(params, section.features)
        hashes = {part: fingerprint_params(part_params) for part, part_params in parts.items()}
        hashes[DATA] = data_fingerprint(self._source)
        if self.tokenizer:
            hashes["tokenizer"] = self.tokenizer.fingerprint
        augment = {} if section.resize else json.loads(json.dumps(dict(self._stage.augment)))
        # Named only where it is on, so that caches of before it existed stay what they are.
        turned = {"exif_orientation": True} if self._reading.exif_orientation else {}
        return Header(
            num_samples=len(self._source),
            records_per_shard=section.records_per_shard,
            crops=section.crops,
            image_size=layout.image_size,
            grid=layout.grid,
            codes_per_place=layout.vq.codes_per_place,
            codebook_sizes=layout.vq.codebook_sizes,
            context_length=probe["token_ids"].shape[1] if "token_ids" in probe else 0,
            fields=self._fields(probe),
            has_captions="caption" in probe,
            hashes=hashes,
            transform={"augment": augment, "resize": section.resize, "seed": self._seed, **turned},
            compute={"dtype": compute.dtype, "vq_dtype": compute.vq_dtype},
            source=self._source_config.to_plain(),
            classes=tuple(getattr(self._source, "classes", None) or ()),
            vq=json.loads(json.dumps(config_to_dict(layout.vq))),
        )

    def _fields(self, probe) -> tuple[Field, ...]:
        section, layout = self._config, self._objective.cache_layout
        ids_dtype = id_dtype(max(layout.vq.codebook_sizes))
        shape = ids_shape(layout.vq, layout.grid)
        fields = [Field("index", "int64", ()), Field("ids", ids_dtype, shape, section.crops)]
        if "labels" in probe:
            fields.append(Field("labels", "int32", ()))
        if "teacher_feature" in section.features:
            shape = (layout.widths["teacher_feature"],)
            fields.append(Field("teacher_feature", section.feature_dtype, shape, section.crops))
        if "token_ids" in probe:
            texts, length = probe["token_ids"].shape
            fields.append(Field("token_ids", id_dtype(layout.vocab_size), (length,), texts))
            if "text_feature" in section.features:
                shape = (layout.widths["text_feature"],)
                fields.append(Field("text_feature", section.feature_dtype, shape, texts))
            if CAPTIONS in section.features:
                shape = (length, layout.widths[CAPTIONS])
                fields.append(Field(CAPTIONS, section.feature_dtype, shape, texts))
                fields.append(Field("valid", "bool", (length,), texts))
        return lay_out(fields)


def _inputs(batch) -> dict[str, np.ndarray]:
    return {name: batch[name] for name in INPUTS if name in batch}
