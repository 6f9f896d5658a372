"""The images that evaluations ask for: read from a data source, or generated."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from toklip_jax.data import pipeline
from toklip_jax.data.images import Decode
from toklip_jax.data.sources import build_source, is_raw
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import FirstCaption, Transform
from toklip_jax.evaluation.outputs import named_output
from toklip_jax.evaluation.samples import SAMPLES, SampleSource, build_samples, sample_batches

NO_TOKENIZER = (
    "expected a text tokenizer for class names and captions, got none: name it in the config's "
    "text.tokenizer"
)
Source = Mapping[str, Any] | SampleSource  # what a section names: a config, or a generator itself
Batches = Callable[[int], Iterator[Mapping[str, Any]]]  # from a batch's number on
Outputs = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are read and batched.

    Attributes:
        image_size: pixels that encoded images are resized to.
        resize: how, of `data.images.RESIZES`.
        tokenizer: of captions.
        batch_size: images encoded at once, by all devices of all hosts.
        num_workers: processes that read.
    """

    image_size: int | tuple[int, ...]
    resize: str
    tokenizer: TextTokenizer | None
    batch_size: int
    num_workers: int


class DataSet:
    """The images of a data source.

    Attributes:
        source: the opened source, without its captions.
        description: its config as json.
        title: a word for the progress.
        grid: None, as ids that were read are not decoded.
    """

    grid = None

    def __init__(self, config: Mapping[str, Any]):
        self._config = dict(config)
        self.source = build_source(self._config)
        self.description = set_key(config)
        self.title = config.get("part", config.get("split", config["kind"]))

    def only_possible(self, outputs: Outputs) -> Outputs:
        """Returns the outputs that can be made of what the source has; ids alone have no pixels."""
        if is_raw(self._config) or "images" in self.source[0]:
            return outputs
        return tuple(name for name in outputs if named_output(name).pixels == "none")

    def batches(self, params: Any, outputs: Outputs, reading: Reading) -> Batches:
        """Returns what yields this host's batches.

        Raises:
            ValueError: captions are asked for, and there is no tokenizer.
        """
        source, tokenizer = self.source, None
        transform: Transform = FirstCaption()
        if "token_ids" in outputs:
            tokenizer = reading.tokenizer
            if is_raw(self._config) and tokenizer is None:
                raise ValueError(NO_TOKENIZER)
            source = build_source(self._config, tokenizer)  # now with its captions
        if is_raw(self._config):
            transform = Decode(reading.image_size, False, tokenizer, resize=reading.resize)

        def batches(start):
            return pipeline.evaluation_batches(
                source,
                reading.batch_size,
                transform,
                num_workers=reading.num_workers,
                host=jax.process_index(),
                hosts=jax.process_count(),
                start=start,
            )

        return batches


class GeneratedSet:
    """The images of a generator of samples.

    Attributes:
        source: the generator.
        description: what it says that its samples are, as json.
        title: a word for the progress.
        grid: of its ids.
    """

    title = "samples"

    def __init__(self, source: SampleSource):
        self.source, self.grid = source, source.grid
        self.description = json.dumps({"samples": source.description}, sort_keys=True)

    def only_possible(self, outputs: Outputs) -> Outputs:
        """Returns the outputs that can be made; ids are decoded, but have no original images."""
        if "images" in self.source.fields:
            return outputs
        return tuple(name for name in outputs if named_output(name).pixels != "original")

    def batches(self, params: Any, outputs: Outputs, reading: Reading) -> Batches:
        """Returns what yields this host's batches."""

        def batches(start):
            return sample_batches(
                self.source,
                params,
                batch_size=reading.batch_size,
                start=start,
                host=jax.process_index(),
                hosts=jax.process_count(),
            )

        return batches


ImageSet = DataSet | GeneratedSet


def open_set(source: Source) -> ImageSet:
    """Opens the images that a section names.

    Raises:
        ValueError, FileNotFoundError: from the config; an unknown kind.
    """
    if not isinstance(source, Mapping):
        return GeneratedSet(source)
    if source.get("kind") in SAMPLES:
        return GeneratedSet(build_samples(source))
    return DataSet(source)


def set_key(source: Source) -> str:
    """Returns what tells sets apart, so that each is encoded once for all that ask for it."""
    if isinstance(source, Mapping):
        return json.dumps(dict(source), sort_keys=True)
    return f"samples {id(source)}"
