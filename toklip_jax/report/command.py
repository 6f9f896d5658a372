"""The command `toklip report runs/demo --phrase="a red apple"`: writes a run's page."""

from collections.abc import Sequence

from toklip_jax.core.errors import exit_status
from toklip_jax.core.home import expand_user
from toklip_jax.core.parser import Parser, file_path
from toklip_jax.report.write import write_report


def main(arguments: Sequence[str]) -> int:
    """Writes the page and prints its path; returns the exit status: 0, or 2 for a user's error."""

    def command() -> None:
        values = parser().read(arguments)
        path = write_report(
            values.workdir,
            values.phrase,
            values.output,
            imports=values.imports,
            seeds=values.seeds,
        )
        print(f"the report is {path}")

    return exit_status(command)


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = Parser("toklip report", "Writes one self-contained page about a run.")
    found.add_argument("workdir", type=file_path, help="the run's directory")
    found.flag(
        "output",
        "the page, and nothing else; by default WORKDIR/report/index.html and its pictures",
        type=file_path,
    )
    found.flag("phrase", "a text to look for; may be repeated", action="append", default=[])
    found.flag(
        "seeds",
        "runs of the same config with other seeds, for means and standard errors over them",
        type=_paths,
        default=[],
        metavar="RUN2,RUN3",
    )
    found.flag(
        "import",
        "a module that registers the run's own sources or evaluations; may be repeated (modules of "
        "toklip_jax that the run's config names are imported anyway)",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
    )
    return found


def _paths(text):
    return [expand_user(path) for path in text.split(",") if path]
