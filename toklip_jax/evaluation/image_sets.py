"""The images that evaluations ask for: read from a data source, or generated."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from toklip_jax.core.errors import UserError
from toklip_jax.data import pipeline
from toklip_jax.data.health import name_left_out
from toklip_jax.data.images import Decode
from toklip_jax.data.sources import ENCODED, SourceConfig
from toklip_jax.data.text import TextTokenizer
from toklip_jax.data.transforms import FirstCaption, Transform
from toklip_jax.evaluation.outputs import named_output
from toklip_jax.evaluation.samples import SAMPLES, SampleSource, build_samples, sample_batches

NO_TOKENIZER = (
    "expected a text tokenizer for class names and captions, got none: name it in the config's "
    "text.tokenizer"
)
# What an evaluation is made with: a data source, a generator's config, or a generator itself.
ImageSource = Mapping[str, Any] | SourceConfig | SampleSource
Batches = Callable[[int], Iterator[Mapping[str, Any]]]  # from a batch's number on
Outputs = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Reading:
    """The settings for reading and batching images.

    Attributes:
        image_size: pixels that encoded images are resized to.
        resize: how, of `data.images.RESIZES`.
        tokenizer: the tokenizer for captions.
        batch_size: images encoded at once, by all devices of all hosts.
        num_workers: processes that read.
        exif_orientation: see `data.images.Decode`.
    """

    image_size: int | tuple[int, ...]
    resize: str
    tokenizer: TextTokenizer | None
    batch_size: int
    num_workers: int
    exif_orientation: bool = False


class DataSet:
    """The images of a data source.

    Attributes:
        source: the opened source, without its captions.
        description: its config as json.
        title: a word for the progress.
        grid: None, as ids that were read are not decoded.
    """

    grid = None

    def __init__(self, config: SourceConfig):
        self._config, self._is_encoded = config, config.gives == ENCODED
        self.source = config.open()
        name_left_out(self.source)
        self.description = set_key(config)
        named = config.arguments
        self.title = str(named.get("part", named.get("split", config.kind)))

    def only_possible(self, outputs: Outputs) -> Outputs:
        """Returns the outputs that can be made of what the source has; ids alone have no pixels."""
        if self._is_encoded or "images" in self.source[0]:
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
            if self._is_encoded and tokenizer is None:
                raise UserError(NO_TOKENIZER)
            source = self._config.open(tokenizer)  # now with its captions
        if self._is_encoded:
            transform = Decode(
                reading.image_size,
                is_training=False,
                tokenizer=tokenizer,
                resize=reading.resize,
                has_labels="labels" in outputs,
                exif_orientation=reading.exif_orientation,
            )

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
        description: its account of what its samples are, as JSON data.
        title: a word for the progress.
        grid: the grid of its ids.
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


def open_set(source: ImageSource) -> ImageSet:
    """Opens the images that an evaluation asks for.

    Raises:
        ValueError, FileNotFoundError: from the config; an unknown kind.
    """
    if _is_config_of_samples(source):
        return GeneratedSet(build_samples(source))
    if isinstance(source, Mapping):
        source = SourceConfig.from_plain(source)
    return DataSet(source) if isinstance(source, SourceConfig) else GeneratedSet(source)


def check_source(source: ImageSource, where: str) -> None:
    """Checks a source without opening it.

    Args:
        where: its place in the config, for messages.

    Raises:
        ValueError: an unknown kind, or arguments that it doesn't take.
    """
    if _is_config_of_samples(source):
        build_samples(source)
    elif isinstance(source, Mapping):
        SourceConfig.from_plain(source, where)
    elif not isinstance(source, SourceConfig | SampleSource):
        raise UserError(f"expected a section of a data source for {where}, got {source!r}")


def set_key(source: ImageSource) -> str:
    """Returns what tells sets apart, so that each is encoded once for all that ask for it."""
    if isinstance(source, SourceConfig):
        source = source.to_plain()
    if isinstance(source, Mapping):
        return json.dumps(dict(source), sort_keys=True)
    return f"samples {id(source)}"


def _is_config_of_samples(source):
    return isinstance(source, Mapping) and source.get("kind") in list(SAMPLES)
