import pytest

from toklip_jax.core.errors import TryAgain
from toklip_jax.training import reading
from toklip_jax.training.reading import Damaged, Refused, read_together


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """The seconds that were waited, without waiting."""
    seconds = []
    monkeypatch.setattr(reading.time, "sleep", seconds.append)
    return seconds


def failing(*errors):
    """A read that raises one error after another, and then succeeds; counts its calls."""

    def read():
        read.calls += 1
        if read.calls <= len(errors):
            raise errors[read.calls - 1]
        return "read"

    read.calls = 0
    return read


def wrapped(error):
    try:
        raise Exception("Encountered error while reading array index") from error
    except Exception as found:
        return found


PASSING = [
    OSError("503 Service Unavailable"),
    OSError(116, "Stale file handle"),
    TimeoutError("timed out"),
    RuntimeError("connection reset by peer"),
    ValueError('UNAVAILABLE: Error reading "gs://bucket/4/state/manifest.ocdbt"'),
    ValueError("FAILED_PRECONDITION: Error reading: [os_error_code='116']"),
    wrapped(ValueError("DEADLINE_EXCEEDED: while reading")),
]
LASTING = [
    Damaged("the checksum of its description differs"),
    FileNotFoundError("no file manifest.ocdbt"),
    ValueError("DATA_LOSS: CRC-32C checksum verification failed"),
    ValueError("NOT_FOUND: Error opening [os_error_code='2']"),
    KeyError("tree_metadata"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
    wrapped(ValueError("OUT_OF_RANGE: requested byte range is not valid")),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_an_error_that_passes_is_waited_for_and_never_taken_for_damage(error, slept):
    assert read_together(failing(error, error), "checkpoint 4") == "read"
    assert slept == [1, 4]
    with pytest.raises(TryAgain, match=r"checkpoint 4 could not be read .*nothing is changed"):
        read_together(failing(*[error] * 9), "checkpoint 4")
    assert sum(slept[2:]) == 60


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_wrong_content_is_read_once_more_and_is_then_damage(error, slept):
    assert read_together(failing(error), "checkpoint 4") == "read"
    with pytest.raises(Damaged):
        read_together(failing(error, error), "checkpoint 4")
    assert slept == [0.5, 0.5]


@pytest.mark.parametrize(
    "error",
    [PermissionError(13, "Permission denied"), ValueError("PERMISSION_DENIED: gs://bucket/4")],
    ids=repr,
)
def test_what_may_not_be_read_is_the_users_to_solve(error):
    with pytest.raises(OSError, match="give this user the right"):
        read_together(failing(*[error] * 9), "checkpoint 4")


def test_what_is_refused_is_not_read_again(slept):
    read = failing(Refused("of another model"))
    with pytest.raises(Refused, match="of another model"):
        read_together(read, "checkpoint 4")
    assert (read.calls, slept) == (1, [])


@pytest.mark.parametrize(
    ("theirs", "raised"), [("refused", Refused), ("damaged", Damaged), ("storage", TryAgain)]
)
def test_what_another_host_meets_ends_this_one_alike(theirs, raised, monkeypatch):
    failure = {"kind": theirs, "text": "met by the other"}
    monkeypatch.setattr(reading, "gather_from_hosts", lambda mine: [mine, failure])
    read = failing()
    with pytest.raises(raised, match="met by the other"):
        read_together(read, "checkpoint 4")
    assert read.calls == 1  # what was read well is not read again


def test_all_hosts_take_a_result_once_the_last_one_has_read_it(monkeypatch):
    others = iter([{"kind": "storage", "text": "stale file handle"}, None])
    monkeypatch.setattr(reading, "gather_from_hosts", lambda mine: [mine, next(others)])
    assert read_together(failing(), "checkpoint 4") == "read"
