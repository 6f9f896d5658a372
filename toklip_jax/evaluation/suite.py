"""The evaluations of a config, run together: each data set is encoded once, for all that ask of it.

A section is {"kind": ..., fields of that kind's class}, and stands under its name in the config's
`evaluations`.
"""

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from toklip_jax.core.fields import check_name, from_fields
from toklip_jax.data import pipeline
from toklip_jax.data.images import RESIZES, Decode
from toklip_jax.data.sources import build_source, is_raw
from toklip_jax.data.text import TextTokenizer
from toklip_jax.evaluation.base import Encodings, Evaluation, Judgement, SourceConfig
from toklip_jax.evaluation.encode import Encoded, Parts, encode, text_batches
from toklip_jax.evaluation.meaning import Meaning
from toklip_jax.evaluation.prefix import Prefix
from toklip_jax.evaluation.reconstruction import Reconstruct
from toklip_jax.evaluation.retrieval import Retrieval
from toklip_jax.evaluation.subject import NEED_PIXELS, Subject
from toklip_jax.evaluation.zeroshot import ZeroShot
from toklip_jax.metrics import Estimate
from toklip_jax.parallel.hosts import broadcast_from_main, is_main_host

KINDS: dict[str, type[Evaluation]] = {
    "meaning": Meaning,
    "prefix": Prefix,
    "reconstruction": Reconstruct,
    "retrieval": Retrieval,
    "zeroshot": ZeroShot,
}
NO_TOKENIZER = (
    "expected a text tokenizer for class names and captions, got none: name it in the config's "
    "text.tokenizer"
)
Outputs = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Result:
    """What one evaluation found.

    Attributes:
        kind: of `KINDS`.
        rows: of its table, see `base.Judgement`.
        details: see there.
        num_images: picture set -> images judged.
        skipped: cause -> images that could not be read.
    """

    kind: str
    rows: list[dict[str, Any]]
    details: dict[str, Any]
    num_images: dict[str, int]
    skipped: dict[str, int]

    def to_plain(self) -> dict[str, Any]:
        """Returns what json can hold: estimates as {"value", "error"}."""
        rows = [{name: _plain(cell) for name, cell in row.items()} for row in self.rows]
        return dataclasses.asdict(self) | {"rows": rows}

    @classmethod
    def from_plain(cls, data: Mapping[str, Any]) -> "Result":
        """Undoes `to_plain`."""
        rows = [{name: _cell(cell) for name, cell in row.items()} for row in data["rows"]]
        return cls(**{**data, "rows": rows})


class Suite:
    """Evaluations of one subject on one mesh."""

    def __init__(
        self,
        sections: Mapping[str, Mapping[str, Any]],
        subject: Subject,
        mesh: jax.sharding.Mesh,
        image_size: int,
        tokenizer: TextTokenizer | None = None,
        batch_size: int = 256,
        num_workers: int = 0,
        resize: str = "squash",
    ):
        """Opens no data yet.

        Args:
            sections: name -> section.
            subject: what is judged.
            image_size: side that encoded images are resized to, pixels.
            tokenizer: of class names and captions.
            batch_size: images encoded at once, by all devices; rounded up to what they divide. It
                changes no figure.
            num_workers: processes that read images.
            resize: how, of `decode.RESIZES`.

        Raises:
            ValueError: a section that is no evaluation, or an unknown `resize`; says what there is.
        """
        self._evaluations = {name: make(name, section) for name, section in sections.items()}
        self._kinds = {name: section["kind"] for name, section in sections.items()}
        self._subject, self._mesh = subject, mesh
        self._image_size, self._tokenizer = image_size, tokenizer
        ways = mesh.shape["data"] * mesh.shape["fsdp"]
        self._batch_size = -(-batch_size // ways) * ways
        self._num_workers, self._resize = num_workers, check_name("resize", resize, RESIZES)
        self._sources: dict[str, Any] = {}

    def run(
        self,
        params: Any,
        has_baselines: bool = False,
        directory: str | pathlib.Path | None = None,
        key: Any = None,
    ) -> dict[str, Result]:
        """Returns the result of every evaluation, the same on all hosts; all must call it.

        Args:
            params: of the subject, laid out over the mesh.
            has_baselines: also what is reached without a model.
            directory: where rows are kept as they are encoded, so that a run that was interrupted
                goes on; None to keep none.
            key: what the rows depend on besides data and outputs: the weights' hashes.
        """
        plan = self._plan(has_baselines)
        encode_set = functools.partial(self._encode, params, directory, key)
        pictures = {config: encode_set(config, outputs) for config, outputs in plan.items()}
        results = {}
        for name, evaluation in self._evaluations.items():
            sources = self._sources_of(evaluation)
            texts = {
                kind: self._encode_texts(params, directory, key, texts)
                for kind, texts in evaluation.texts(sources).items()
            }
            results[name] = self._judge(name, pictures, texts, sources, has_baselines)
        return results

    def _plan(self, has_baselines) -> dict[str, Outputs]:
        """The outputs asked of each data set, by its config as json: all evaluations together."""
        plan: dict[str, dict[str, None]] = {}
        for evaluation in self._evaluations.values():
            sources, sets = self._sources_of(evaluation), evaluation.sets()
            for name, outputs in evaluation.outputs(self._subject, sources, has_baselines).items():
                outputs = outputs if _has_pixels(sources[name], sets[name]) else _of_ids(outputs)
                plan.setdefault(_key(sets[name]), {}).update(dict.fromkeys(outputs))
        return {config: tuple(sorted(outputs)) for config, outputs in plan.items()}

    def _sources_of(self, evaluation) -> dict[str, Any]:
        sets = evaluation.sets()
        for config in map(_key, sets.values()):
            if config not in self._sources:
                self._sources[config] = build_source(json.loads(config))
        return {name: self._sources[_key(config)] for name, config in sets.items()}

    def _encode(self, params, directory, key, config, outputs) -> Encoded:
        source, kind = self._sources[config], json.loads(config)
        tokenizer, transform = None, _first_caption
        if "token_ids" in outputs:
            tokenizer = self._tokenizer
            if is_raw(kind) and tokenizer is None:
                raise ValueError(NO_TOKENIZER)
            source = build_source(kind, tokenizer)  # now with its captions
        if is_raw(kind):
            transform = Decode(self._image_size, False, tokenizer, resize=self._resize)

        def batches(start: int) -> Iterator[Mapping[str, Any]]:
            shares = self._num_workers, jax.process_index(), jax.process_count()
            return pipeline.evaluation_batches(
                source, self._batch_size, transform, *shares, start=start
            )

        title = kind.get("part", kind.get("split", kind["kind"]))
        parts = directory and Parts(directory, self._describe([config, len(source)], outputs, key))
        count = -(-len(source) // self._batch_size)
        function = self._function(outputs)
        return encode(function, params, batches, count, self._mesh, f"encode {title}", parts)

    def _encode_texts(self, params, directory, key, texts: Sequence[str]) -> np.ndarray:
        if self._tokenizer is None:
            raise ValueError(NO_TOKENIZER)
        token_ids = self._tokenizer(list(texts))

        def batches(start: int) -> Iterator[Mapping[str, Any]]:
            shares = jax.process_index(), jax.process_count()
            return text_batches(token_ids, self._batch_size, start, *shares)

        data = hashlib.sha256(token_ids.tobytes()).hexdigest()
        parts = directory and Parts(directory, self._describe(data, ("text",), key))
        count = -(-len(token_ids) // self._batch_size)
        function = self._function(("text",))
        encoded = encode(function, params, batches, count, self._mesh, "encode texts", parts)
        return encoded.rows.get("text", np.zeros((0, 0), np.float32))

    def _judge(self, name, pictures, texts, sources, has_baselines) -> Result:
        """Of host 0, and sent to the others, so that all decide alike."""
        evaluation, plain = self._evaluations[name], None
        mine = {set_: pictures[_key(config)] for set_, config in evaluation.sets().items()}
        if is_main_host():
            rows = {set_: encoded.rows for set_, encoded in mine.items()}
            _expect_rows(name, rows)
            judgement = evaluation.judge(
                Encodings(self._subject, sources, rows, texts, has_baselines)
            )
            plain = _result(self._kinds[name], judgement, mine).to_plain()
        return Result.from_plain(broadcast_from_main(plain))

    @functools.cache  # noqa: B019 - as long as the suite
    def _function(self, outputs: Outputs) -> Callable[..., dict[str, jax.Array]]:
        return jax.jit(functools.partial(self._subject.outputs, outputs))

    def _describe(self, data, outputs, key):
        return {
            "data": data,
            "outputs": outputs,
            "batch_size": self._batch_size,
            "image_size": self._image_size,
            "resize": self._resize,
            "compute": dataclasses.asdict(self._subject.compute),
            "models": key,
        }


def register_evaluation(kind: str, cls: type[Evaluation]) -> None:
    """Makes a kind of evaluation known by the `kind` that its sections have.

    Raises:
        ValueError: another class has the name.
    """
    if KINDS.setdefault(kind, cls) is not cls:
        raise ValueError(f"expected a new name for a kind of evaluation, got {kind!r} twice")


def make(name: str, section: Mapping[str, Any]) -> Evaluation:
    """Returns the evaluation of a section.

    Raises:
        ValueError: an unknown kind or field; names the nearest.
    """
    if "kind" not in section:
        raise ValueError(f"expected a kind in evaluations.{name}, got {sorted(section)}")
    kind = check_name(f"evaluations.{name}.kind", section["kind"], KINDS)
    fields = {field: value for field, value in section.items() if field != "kind"}
    return from_fields(KINDS[kind], fields, f"evaluations.{name}")


def flat_figures(results: Mapping[str, Result]) -> dict[str, float]:
    """Returns the figures of all tables as "evaluation/model/figure": what training logs."""
    figures = {}
    for name, result in results.items():
        for row in result.rows:
            cells = {figure: cell for figure, cell in row.items() if figure != "model"}
            for figure, cell in cells.items():
                value = cell.value if isinstance(cell, Estimate) else cell
                if isinstance(value, int | float):
                    figures[f"{name}/{row['model']}/{figure}"] = float(value)
    return figures


def _result(kind, judgement: Judgement, encoded: Mapping[str, Encoded]) -> Result:
    skipped: dict[str, int] = {}
    for part in encoded.values():
        for cause, count in part.skipped.items():
            skipped[cause] = skipped.get(cause, 0) + count
    sizes = {name: len(part.rows["index"]) for name, part in encoded.items()}
    return Result(kind, judgement.rows, judgement.details, sizes, skipped)


def _expect_rows(name, rows):
    for set_, found in rows.items():
        if not len(found.get("index", ())):
            raise ValueError(f"expected images in {set_} of evaluations.{name}, found none to read")


def _key(config: SourceConfig) -> str:
    return json.dumps(dict(config), sort_keys=True)


def _has_pixels(source, config) -> bool:
    return is_raw(config) or "images" in source[0]


def _of_ids(outputs: Outputs) -> Outputs:
    return tuple(output for output in outputs if output not in NEED_PIXELS)


def _first_caption(sample, rng):
    """Drawn sources give several captions a picture, of which one is judged."""
    if "captions" not in sample:
        return sample
    rest = {name: value for name, value in sample.items() if name != "captions"}
    return rest | {"token_ids": sample["captions"][0]}


def _plain(cell):
    """An estimate as a dict; what is not finite is null, as json knows no NaN."""
    if isinstance(cell, Estimate):
        return {name: _plain(number) for name, number in cell._asdict().items()}
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _cell(cell):
    if not isinstance(cell, dict):
        return cell
    return Estimate(*(math.nan if cell[n] is None else cell[n] for n in ("value", "error")))
