"""The page's section of method: what was measured with what, and how to run it again."""

import base64
import json
import pprint
import shlex
import string
from collections.abc import Mapping, Sequence
from typing import Any

from toklip_jax.report.files import Run
from toklip_jax.report.markup import Markup, tag
from toklip_jax.report.page import Section, asset, scroll_box

CONFIG_FILE = "config.py"
WIDTH = 96  # letters of a line


def method_section(
    run: Run,
    source: Mapping[str, Any] | None,
    phrases: Sequence[str],
    *,
    facts: Markup,
    config_path: str = "",
    notes: Sequence[str] = (),
) -> Section:
    """Returns what the figures were measured with, and how to make them and this page again.

    Args:
        source: the source of the page's images, or None.
        phrases: the phrases asked for on the command line.
        facts: the run's weights, software and devices.
        config_path: the config file beside the page, or "" if the page alone was written.
        notes: a line on each thing that was left out, with the reason.
    """
    workdir, file = shlex.quote(str(run.workdir)), shlex.quote(config_path or CONFIG_FILE)
    options = "".join(f" --phrase={shlex.quote(phrase)}" for phrase in phrases)
    commands = [
        "# the same run again, and one with another seed",
        f"python -m toklip_jax.main --config={file} --workdir=runs/again",
        f"python -m toklip_jax.main --config={file} --workdir=runs/seed_1 --config.seed=1",
        "# the evaluation of this run, and this page",
        f"python -m toklip_jax.main --config={file} --workdir={workdir} --mode=eval",
        f"python -m toklip_jax.report {workdir}{options}",
    ]
    text = config_text(run.config)
    data = json.dumps(source, ensure_ascii=False) if source else "none"
    download = tag("a", CONFIG_FILE, href=_data_url(text), download=CONFIG_FILE)
    body = [
        [tag("h3", "Left out"), [tag("p", note) for note in notes]] if notes else None,
        tag("h3", "Weights, software, devices"),
        facts,
        tag("h3", "Run it again"),
        tag(
            "p",
            "The run's config as a file that --config takes: save ",
            download,
            f", or take {config_path}" if config_path else None,
            ". Relative paths in it start where the run was started.",
        ),
        scroll_box(tag("pre", "\n".join(commands)), "Commands"),
        tag("details", tag("summary", "The file"), scroll_box(tag("pre", text), "Config")),
        tag("h3", "Images of this page"),
        scroll_box(tag("pre", data), "Source of the images"),
    ]
    return Section("method", "How it was measured", "And how to measure it again.", body)


def config_text(config: Mapping[str, Any]) -> str:
    """Returns a run's config as the text of a config file that gives the same experiment."""
    fields = pprint.pformat(_plain(config), width=WIDTH, sort_dicts=False)
    return string.Template(asset("config.txt")).substitute(name=CONFIG_FILE, fields=fields)


def _plain(value):
    """Lists as tuples, as in the config that was written down as JSON."""
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _data_url(text):
    data = base64.b64encode(text.encode(errors="replace")).decode()
    return f"data:text/x-python;charset=utf-8;base64,{data}"
