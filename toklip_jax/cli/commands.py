"""The table of the commands of `toklip`; nothing of them is imported until one is run."""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

from toklip_jax.core.parser import Parser


@dataclasses.dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: its name, as the user writes it.
        about: what it does, in a few words.
        module: the module whose `main(arguments)` it is, and whose `parser()` reads them.
        has_large_memory: whether it computes, and so may be started again with large pages.
    """

    name: str
    about: str
    module: str
    has_large_memory: bool = True

    def main(self, arguments: list[str]) -> int:
        """Runs the command and returns its exit status."""
        return self._imported().main(arguments)

    def parser(self) -> Parser | None:
        """Returns the parser of its arguments, or None where its module has none to show."""
        try:
            make: Callable[[], Any] = self._imported().parser
        except (ImportError, AttributeError):  # an extra is missing, or it has no flags
            return None
        return make()

    def _imported(self):
        return importlib.import_module(self.module)


COMMANDS = (
    Command("tokenize", "a folder of images to ids", "toklip_jax.cli.tokenize"),
    Command("decode", "ids to images", "toklip_jax.cli.decode"),
    Command("embed", "a folder of images to features", "toklip_jax.cli.embed"),
    Command("classify", "a folder of images by names of classes", "toklip_jax.cli.classify"),
    Command("search", "a folder of images for a text", "toklip_jax.cli.search"),
    Command("generate", "draw images of classes or texts", "toklip_jax.cli.generate"),
    Command("chat", "ask a multimodal model about images", "toklip_jax.cli.chat"),
    Command("benchmark", "a multimodal model's score on a benchmark", "toklip_jax.cli.benchmark"),
    Command("app", "a local page to play with", "toklip_jax.cli.app"),
    Command("models", "the models that load by name", "toklip_jax.cli.models", False),
    Command("export", "a model's programs as StableHLO", "toklip_jax.cli.export", False),
    Command("convert", "PyTorch files to weights, and back", "toklip_jax.cli.convert", False),
    Command("train", "train the stages of a config", "toklip_jax.cli.train"),
    Command("eval", "evaluate models as a config says", "toklip_jax.cli.evaluate"),
    Command("encode", "a data set to a cache of ids, or Parquet", "toklip_jax.cli.encode"),
    Command("plan", "a config's memory and time on other hardware", "toklip_jax.cli.plan", False),
    Command("report", "a run as one page", "toklip_jax.report.command"),
    Command("completion", "completion for a shell", "toklip_jax.cli.completion", False),
)
