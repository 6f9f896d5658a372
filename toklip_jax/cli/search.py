"""The command `toklip search FOLDER "a red apple"`: the images that fit a text best."""

from collections.abc import Sequence

import numpy as np

from toklip_jax.cli.folder import load_model, text_parser
from toklip_jax.cli.running import run_plain
from toklip_jax.cli.text_search import features_of, print_table
from toklip_jax.core.parser import Parser, positive


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = text_parser(
        "search",
        "Prints the images of a folder, or of a file that `toklip embed` wrote, that fit a text\n"
        "best: the cosine of the two features, and the image's path.",
    )
    found.add_argument("text", help="what is looked for")
    found.flag("top", "how many images", type=positive, default=10)
    return found


def _run(values) -> None:
    model = load_model(values, "text_features")
    text = np.asarray(model.text_features([values.text]))  # before the folder, as it is cheap
    names, features = features_of(values, model)
    scores = (features @ text.T)[:, 0]
    best = np.argsort(-scores, kind="stable")[: values.top]
    print_table([(f"{scores[i]:.4f}", names[i]) for i in best])
