"""The command that lists the weights which can be loaded by name, and fetches them."""

import dataclasses
import json
from collections.abc import Sequence

from toklip_jax.cli.running import plain_parser, run_plain
from toklip_jax.core.parser import Parser
from toklip_jax.models.releases import MAIN, Release
from toklip_jax.weights.catalogue import find_release, list_models, locate

COLUMNS = ("name", "what", "file", "size", "commit", "licence")
UNKNOWN = "not known"


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit status (see `core.errors`)."""
    return run_plain(arguments, parser(), _run, is_connected=False)


def markdown_table(releases: list[Release]) -> str:
    """Returns published weights as the table of docs/models.md."""
    rows = [COLUMNS, ("---",) * len(COLUMNS), *map(_markdown_row, releases)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _run(args) -> None:
    if args.fetch:
        located = locate(args.fetch)
        print(located.path)
        if located.tokenizer is not None:
            print(located.tokenizer())
        return
    releases = [find_release(args.name)] if args.name else list_models()
    if args.json:
        print(json.dumps([_fields(release) for release in releases], indent=2))
    elif args.markdown:
        print(markdown_table(releases))
    elif args.name:
        _print_one(releases[0])
    else:
        _print_all(releases)


def _print_all(releases):
    width = max(len(release.name) for release in releases)
    for each in releases:
        print(f"{each.name:{width}}  {each.size or '?':>7}  {each.title}")


def _print_one(release):
    lines = {
        "name": release.name,
        "what": release.title,
        "page": release.link,
        "licence": " ".join(filter(None, (release.licence, release.licence_page))),
        "size": release.size or UNKNOWN,
        "use": release.use or f'toklip_jax.load("{release.name}")',
    }
    if release.is_gated:
        lines["access"] = "accept the licence on the page, and log in with `hf auth login`"
    for part in release.snapshots:
        lines |= {file.name: part.url(file) for file in part.files}
    for name, value in lines.items():
        print(f"{name}: {value}")


def _fields(release):
    """What json tells of published weights."""
    fields = dataclasses.asdict(release)
    return {**fields, "page": release.link, "total_size": release.size or None}


def _markdown_row(release):
    what = release.title + (f"; {release.use}" if release.use else "")
    licence = f"[{release.licence}]({release.licence_page or release.link})"
    if release.is_gated:
        licence += "; to be accepted on its page"
    if release.files is None:
        return f"`{release.name}`", what, f"[by hand]({release.link})", "", "", licence
    commit = (release.files.revision or "")[:10] or f"{MAIN}, not pinned"
    file = f"[{release.files.files[0].name}]({release.link})"
    return f"`{release.name}`", what, file, release.size or UNKNOWN, commit, licence


def parser() -> Parser:
    """Returns the parser of the command's arguments."""
    found = plain_parser(
        "models",
        "Lists the published weights that `toklip_jax.load` takes by name. What is fetched is\n"
        "kept in huggingface_hub's cache.",
    )
    found.add_argument("name", nargs="?", help="weights to say more of")
    found.switch("json", "print all that is known, for programs")
    found.switch("markdown", "print the table that docs/models.md has")
    found.flag("fetch", "weights to fetch; prints their path and the tokenizer's")
    return found
