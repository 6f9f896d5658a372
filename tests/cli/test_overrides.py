"""Flags for fields that a config doesn't have yet become one flag for their section."""

import pytest

from toklip_jax.cli.overrides import with_whole_sections
from toklip_jax.core.arguments import expect_given_once

CONFIG = {
    "seed": 0,
    "is_on": True,
    "source": {"kind": "webdataset", "shards": "a.tar"},
    "stage": {"model": {"kind": "tower", "width": 8}, "validation": None, "batch_size": 4},
    "parts": ({"weight": 1.0},),
}


def folded(*flags):
    return with_whole_sections([f"--config.{flag}" for flag in flags], CONFIG)


@pytest.mark.parametrize(
    "flags",
    [
        ["seed=3"],
        ["source.shards=b.tar"],
        ["source.kind=webdataset", "source.shards=b.tar"],
        ["source.text=txt"],  # of the same kind: a field that the file leaves out
        ["source={'kind': 'table', 'path': 'a.csv'}"],
        ["stage.model.width=16", "stage.batch_size=8"],
        ["wandb={}"],
    ],
)
def test_fields_that_are_there_are_left_to_the_parser(flags):
    assert folded(*flags) == [f"--config.{flag}" for flag in flags]


@pytest.mark.parametrize(
    ("flags", "section"),
    [
        (
            ["source.kind=table", "source.path=a.csv"],
            "source={'kind': 'table', 'path': 'a.csv'}",
        ),
        (
            ["source.label=2", "seed=1", "source.kind=table", "source.has_header=true"],
            "source={'label': 2, 'kind': 'table', 'has_header': True}",
        ),
        (
            ["stage.validation.kind=table", "stage.validation.path=a=b.csv"],
            "stage.validation={'kind': 'table', 'path': 'a=b.csv'}",
        ),
        (
            ["stage.model.kind=conv", "stage.model.sizes=(1, 2)"],
            "stage.model={'kind': 'conv', 'sizes': (1, 2)}",
        ),
        (["report.source.kind=table"], "report={'source': {'kind': 'table'}}"),
        (
            ["source={'kind': 'table'}", "source.path=a.csv"],
            "source={'kind': 'table', 'path': 'a.csv'}",
        ),
    ],
)
def test_a_section_of_another_kind_or_a_new_one_is_given_whole(flags, section):
    got = folded(*flags)
    assert f"--config.{section}" in got
    assert len(got) == 1 + flags.count("seed=1")


def test_values_may_follow_their_flags():
    argv = ["main", "--config.source.kind", "table", "-config.source.path", "a.csv", "--restart"]
    argv += ["--config.is_on", "--mode", "eval"]
    assert with_whole_sections(argv, CONFIG) == [
        "main",
        "--config.source={'kind': 'table', 'path': 'a.csv'}",
        *argv[5:],
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["seed.x=1"], r"a section at --config\.seed to set x in, got 0: set --config\.seed"),
        (["parts.0.weight=1"], r"a section at --config\.parts to set 0 in"),
        (["source.path=a", "source={'kind': 'table'}"], "before the fields in it"),
        (["source=a", "source.path=a"], "expected a section for --config.source"),
        (["new.a=1", "new.a.b=2"], "expected a section at a in"),
    ],
)
def test_what_can_not_be_set_is_said(flags, message):
    with pytest.raises(ValueError, match=message):
        folded(*flags)


@pytest.mark.parametrize(
    "argv",
    [
        ["--a=1", "--a=2"],
        ["--a", "1", "--a", "2"],
        ["--a-b=1", "--a_b=2"],
        ["-a=1", "--a=2"],
        ["--a", "--noa"],
        ["--a={0}.tar", "--b", "--a={1}.tar"],
    ],
)
def test_a_flag_given_twice_is_named(argv):
    with pytest.raises(ValueError, match=r"expected --a(-b)? once.*quote a pattern"):
        expect_given_once(argv)


def test_flags_that_agree_or_collect_may_be_repeated():
    expect_given_once(["--a=1", "--a=1", "--b", "x", "-3", "-3", "y", "--b", "x"])
    expect_given_once(["--phrase=a cat", "--phrase=a dog"], repeatable=("phrase",))
    expect_given_once(["--a=1", "--", "--a=2"])
