"""Progress of long work, on a terminal and in a pipe."""

import io

from toklip_jax.parallel import progress
from toklip_jax.parallel.progress import Bar, Progress


def test_a_bar_says_the_time_left_in_words_and_fits():
    with Bar("stage 2 of 3, teacher", 1000, 100, file=io.StringIO(), disable=False) as bar:
        bar.update(300)
        assert len(str(bar)) <= 100
        assert str(bar).startswith("stage 2 of 3, teacher 400/1000 ")
        assert bar.format_dict["left"].endswith(" left")


def test_lines_take_its_place_in_a_pipe(monkeypatch, capsys):
    clock = iter(range(0, 100000, 61))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with Progress("encode", 100, 90, unit="batch") as counted:
        counted.advance()
        counted.advance(3)
    out = capsys.readouterr()
    assert out.out.splitlines() == [
        "encode 91/100 batches | 9 min left",
        "encode 94/100 batches | 3 min left",
    ]
    assert out.err == ""


def test_what_is_counted_is_done_too():
    done = []
    with Progress("write", 2, unit="tensor") as counted:
        counted.counted(lambda: done.append(1))()
    assert done == [1]
