"""SIGTERM stops a program at once, or where it asks, and in no other way."""

import os
import signal

import pytest

from toklip_jax.cli.running import run_command
from toklip_jax.core.errors import PREEMPTED, Preempted, TryAgain
from toklip_jax.parallel.preemption import (
    is_told,
    stop_if_told,
    stopping_at_once,
    stopping_when_asked,
)


def send():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(autouse=True)
def handler():
    """What the tests leave is what they found."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) == before


def test_at_once_even_through_code_that_handles_every_exception():
    def handle_everything():
        try:
            send()
        except Exception:
            pytest.fail("it was taken for a failure")

    with pytest.raises(Preempted), stopping_at_once():
        handle_everything()


def test_where_it_is_asked_for():
    with stopping_when_asked():
        assert not is_told()
        send()
        assert is_told()
        with pytest.raises(Preempted):
            stop_if_told()
    with stopping_when_asked():
        assert not is_told()  # another program's


def test_at_the_end_of_what_must_not_be_cut_short():
    done = []

    @stopping_when_asked()
    def save():
        send()
        done.append(True)

    with pytest.raises(Preempted), stopping_at_once():
        save()
    assert done


def test_at_once_within_what_asks():
    with stopping_when_asked():
        with pytest.raises(Preempted), stopping_at_once():
            send()
        assert is_told()


def test_another_error_is_not_replaced():
    @stopping_when_asked()
    def fail():
        send()
        raise KeyError

    with pytest.raises(KeyError), stopping_at_once():
        fail()


def test_a_second_signal_does_not_cut_short_the_cleaning_up():
    cleaned = []

    def stop():
        try:
            send()
        finally:
            send()
            cleaned.append(True)

    with pytest.raises(Preempted), stopping_at_once():
        stop()
    assert cleaned


def test_a_command_that_is_told_to_stop_has_the_status_of_preemption(capsys):
    assert run_command(send, None) == PREEMPTED
    assert capsys.readouterr().err.startswith("preempted: ")

    def lose_workers():
        raise TryAgain("workers were lost")

    assert run_command(lose_workers, None) == PREEMPTED
    error = capsys.readouterr().err
    assert "workers were lost" in error
    assert error.count("\n") == 1
