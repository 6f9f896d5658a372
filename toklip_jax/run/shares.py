"""Work that hosts share out, part by part: what one of them meets is agreed on by all."""

from toklip_jax.core.errors import Preempted, UserError
from toklip_jax.parallel.hosts import gather_from_hosts


def is_any_left(left: int, work: str, *, is_told: bool = False, error: str = "") -> bool:
    """Returns whether some host has parts left; all hosts ask before each part.

    Args:
        left: parts that this host has left.
        work: what is left to do with them, as in "shards are left to encode".
        is_told: whether this host was told to stop.
        error: what this host has met, in one line.

    Raises:
        ValueError: a host met an error.
        Preempted: a host was told to stop.
    """
    everyone = gather_from_hosts([is_told, error, left])
    total = sum(one[2] for one in everyone)
    if errors := [one[1] for one in everyone if one[1]]:
        raise UserError(errors[0])
    if total and any(one[0] for one in everyone):
        raise Preempted(f"{total} {work}")
    return total > 0
