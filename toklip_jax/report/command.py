"""`python -m toklip_jax.report runs/demo --phrase="a red apple"`: writes a run's page."""

import argparse
import sys

from toklip_jax.core.arguments import expect_given_once
from toklip_jax.core.errors import exit_status
from toklip_jax.core.home import expand_user
from toklip_jax.report.write import write_report


def main(argv: list[str] | None = None) -> int:
    """Writes the page and prints its path; returns the exit status: 0, or 2 for a user's error."""
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)

    def command() -> None:
        expect_given_once(argv, repeatable=("phrase", "import"))
        path = write_report(
            args.workdir, args.phrase, args.output, imports=args.imports, seeds=args.seeds
        )
        print(f"the report is {path}")

    return exit_status(command)


def _parser():
    parser = argparse.ArgumentParser(
        "python -m toklip_jax.report", description="Writes one self-contained page about a run."
    )
    parser.add_argument("workdir", type=expand_user, help="the run's directory")
    parser.add_argument(
        "--output",
        type=expand_user,
        help="the page, and nothing else; by default WORKDIR/report/index.html and its pictures",
    )
    parser.add_argument(
        "--phrase", action="append", default=[], help="a text to look for; may be repeated"
    )
    parser.add_argument(
        "--seeds",
        type=lambda text: [expand_user(workdir) for workdir in text.split(",") if workdir],
        default=[],
        metavar="RUN2,RUN3",
        help="runs of the same config with other seeds, for means and standard errors over them",
    )
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="imports",
        metavar="MODULE",
        help="a module that registers the run's own sources or evaluations; may be repeated "
        "(modules of toklip_jax that the run's config names are imported anyway)",
    )
    return parser
