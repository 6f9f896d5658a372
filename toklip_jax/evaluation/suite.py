"""Evaluations run together: each set of images is encoded once, for all of them."""

import collections
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from toklip_jax.core.errors import UserError
from toklip_jax.core.fields import check_name
from toklip_jax.data.config import IMAGE_SIZE_OF_THE_MODEL
from toklip_jax.data.fingerprints import data_fingerprint
from toklip_jax.data.images import DEFAULT_RESIZE, RESIZES
from toklip_jax.data.text import TextTokenizer
from toklip_jax.evaluation.base import Encodings, Evaluation, Scores
from toklip_jax.evaluation.encode import encode, text_batches
from toklip_jax.evaluation.image_sets import (
    NO_TOKENIZER,
    ImageSet,
    Outputs,
    Reading,
    open_set,
    set_key,
)
from toklip_jax.evaluation.models import Models
from toklip_jax.evaluation.outputs import compute_outputs
from toklip_jax.evaluation.parts import Encoded, Parts
from toklip_jax.evaluation.registry import kind_of
from toklip_jax.evaluation.results import Result
from toklip_jax.parallel.hosts import call_on_main
from toklip_jax.parallel.sharding import batch_ways


@dataclasses.dataclass(frozen=True)
class Kept:
    """The place where encoded rows are kept, so that an interrupted evaluation can resume.

    Attributes:
        directory: the directory that holds them.
        key: all that the rows depend on besides data and outputs: the weights' hashes.
    """

    directory: str | pathlib.Path
    key: Any


class Suite:
    """Evaluations of some models on one mesh."""

    def __init__(
        self,
        evaluations: Mapping[str, Evaluation],
        models: Models,
        mesh: jax.sharding.Mesh,
        *,
        image_size: int | tuple[int, ...] = IMAGE_SIZE_OF_THE_MODEL,
        tokenizer: TextTokenizer | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        resize: str = DEFAULT_RESIZE,
        exif_orientation: bool = False,
    ):
        """Opens no data yet.

        Args:
            evaluations: the evaluations by name.
            models: those that are evaluated.
            image_size: pixels that encoded images are resized to, the side of a square or (height,
                width); 0 for the models'.
            tokenizer: the tokenizer for class names and captions.
            batch_size: images encoded at once, by all devices; rounded up to what they divide. It
                changes no figure.
            num_workers: processes that read images.
            resize: how, of `data.images.RESIZES`.
            exif_orientation: see `data.images.Decode`.

        Raises:
            ValueError: an evaluation that is not registered, an unknown `resize`, or a tokenizer
                that doesn't fit the models.
        """
        self._evaluations = dict(evaluations)
        self._kinds = {name: kind_of(evaluation) for name, evaluation in evaluations.items()}
        self._models, self._mesh = models, mesh
        if tokenizer is not None and models.text_config is not None:
            tokenizer.expect_fits(models.text_config)
        ways = batch_ways(mesh)
        self._reading = Reading(
            image_size=image_size or models.image_size or 0,
            resize=check_name("resize", resize, RESIZES),
            tokenizer=tokenizer,
            batch_size=-(-batch_size // ways) * ways,
            num_workers=num_workers,
            exif_orientation=exif_orientation,
        )
        self._sets: dict[str, ImageSet] = {}

    def run(
        self, params: Any, *, has_baselines: bool = False, kept: Kept | None = None
    ) -> dict[str, Result]:
        """Returns the result of every evaluation, the same on all hosts; all must call it.

        Args:
            params: parameters of the models, sharded over the mesh.
            has_baselines: whether tables also have rows of what needs no model.
            kept: where rows are kept; None to keep none.
        """
        plan = self._plan(has_baselines)
        # Before anything is encoded: files of class names may be missing, or not fit the data.
        wanted = {n: one.texts(self._sources(one)) for n, one in self._evaluations.items()}
        images = {key: self._encode_set(params, kept, key, plan[key]) for key in plan}
        results = {}
        for name, evaluation in self._evaluations.items():
            texts = {
                kind: self._encode_texts(params, kept, texts)
                for kind, texts in wanted[name].items()
            }
            keys = {part: set_key(source) for part, source in evaluation.sets().items()}
            mine = {part: images[key] for part, key in keys.items() if key in images}
            results[name] = self._score(name, mine, texts, has_baselines)
        return results

    def _plan(self, has_baselines) -> dict[str, Outputs]:
        """The outputs asked of each set, by its key: all evaluations together."""
        plan: dict[str, dict[str, None]] = {}
        for evaluation in self._evaluations.values():
            sources, sets = self._sources(evaluation), evaluation.sets()
            for part, asked in evaluation.outputs(self._models, sources, has_baselines).items():
                key = set_key(sets[part])
                possible = self._sets[key].only_possible(asked)
                plan.setdefault(key, {}).update(dict.fromkeys(possible))
        return {key: tuple(sorted(outputs)) for key, outputs in plan.items()}

    def _sources(self, evaluation) -> dict[str, Any]:
        """The sources of an evaluation's sets, opened at the first use."""
        sets = evaluation.sets()
        for source in sets.values():
            if set_key(source) not in self._sets:
                self._sets[set_key(source)] = open_set(source)
        return {part: self._sets[set_key(source)].source for part, source in sets.items()}

    def _encode_set(self, params, kept, key, outputs) -> Encoded:
        images = self._sets[key]
        size = len(images.source)
        return self._encode(
            params,
            images.batches(params, outputs, self._reading),
            function=self._function(outputs, images.grid),
            num_rows=size,
            title=f"encode {images.title}",
            parts=self._parts(kept, [images.description, data_fingerprint(images.source)], outputs),
        )

    def _encode_texts(self, params, kept, texts: Sequence[str]) -> np.ndarray:
        if self._reading.tokenizer is None:
            raise UserError(NO_TOKENIZER)
        token_ids = self._reading.tokenizer(list(texts))

        def batches(start: int) -> Iterator[Mapping[str, Any]]:
            return text_batches(
                token_ids,
                self._reading.batch_size,
                start=start,
                host=jax.process_index(),
                hosts=jax.process_count(),
            )

        encoded = self._encode(
            params,
            batches,
            function=self._function(("text",), None),
            num_rows=len(token_ids),
            title="encode texts",
            parts=self._parts(kept, hashlib.sha256(token_ids.tobytes()).hexdigest(), ("text",)),
        )
        return encoded.rows.get("text", np.zeros((0, 0), np.float32))

    def _encode(self, params, batches, *, function, num_rows, title, parts) -> Encoded:
        num_batches = -(-num_rows // self._reading.batch_size)
        return encode(
            function, params, batches, num_batches, mesh=self._mesh, title=title, parts=parts
        )

    def _score(self, name, images: Mapping[str, Encoded], texts, has_baselines) -> Result:
        """Computed by host 0 and sent to the others, so that all decide alike."""
        evaluation = self._evaluations[name]

        def score() -> dict[str, Any]:
            rows = {part: encoded.rows for part, encoded in images.items()}
            _expect_rows(name, rows)
            scores = evaluation.score(
                Encodings(
                    models=self._models,
                    sources=self._sources(evaluation),
                    images=rows,
                    texts=texts,
                    has_baselines=has_baselines,
                )
            )
            problems = [getattr(s, "problems", []) for s in self._sources(evaluation).values()]
            return _result(self._kinds[name], scores, images, problems).to_plain()

        return Result.from_plain(call_on_main(score))

    @functools.cache  # noqa: B019 - as long as the suite
    def _function(self, outputs: Outputs, grid) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(functools.partial(compute_outputs, outputs, self._models, grid))

    def _parts(self, kept, data, outputs) -> Parts | None:
        if kept is None:
            return None
        key = {
            "data": data,
            "outputs": outputs,
            "batch_size": self._reading.batch_size,
            "image_size": self._reading.image_size,
            "resize": self._reading.resize,
            "exif_orientation": self._reading.exif_orientation,
            "compute": dataclasses.asdict(self._models.compute),
            "models": kept.key,
        }
        return Parts(kept.directory, key)


def _result(kind, scores: Scores, encoded: Mapping[str, Encoded], problems) -> Result:
    # What a data set left out when it was opened is as absent as what could not be read.
    skipped = dict(collections.Counter(cause for part in problems for _, cause in part))
    for part in encoded.values():
        for cause, count in part.skipped.items():
            skipped[cause] = skipped.get(cause, 0) + count
    sizes = {name: len(part.rows["index"]) for name, part in encoded.items()}
    return Result(kind, scores.rows, scores.details, sizes, skipped)


def _expect_rows(name, rows):
    for part, found in rows.items():
        if not len(found.get("index", ())):
            raise UserError(f"expected images in {part} of evaluations.{name}, found none to read")
