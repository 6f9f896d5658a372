"""A lock on a directory that ends with the process that holds it, however that ends."""

import errno
import fcntl
import os
import pathlib
import socket
import time

from toklip_jax.core.errors import UserError

LOCK_NAME = ".lock"
PATIENCE = 5.0  # seconds: a run that was told to stop may be on its way out
HELD = (errno.EAGAIN, errno.EACCES)


class DirectoryLock:
    """Holds a directory for this process until it is closed, or the process ends.

    It is a lock of the process (POSIX `fcntl`), also across hosts on a shared filesystem. Processes
    that this one starts don't inherit it, so that none of them can keep it after a kill. A
    filesystem without locks is used without one, after a warning.

    Raises:
        UserError: another process holds it for more than `PATIENCE` seconds.
    """

    def __init__(self, directory: pathlib.Path):
        self._file = (directory / LOCK_NAME).open("a+")
        deadline = time.monotonic() + PATIENCE
        while not self._is_taken():
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read(100).strip() or "another process"
                self._file.close()
                raise UserError(
                    f"expected a workdir that no other run is using, got {directory}, which "
                    f"{holder} is using: wait for that run, end it, or choose another workdir"
                )
            time.sleep(0.2)
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def close(self) -> None:
        """Releases the directory."""
        self._file.close()

    def _is_taken(self) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in HELD:
                return False
            print(
                f"{self._file.name} can't be locked ({error.strerror}), as its filesystem has no "
                f"locks: make sure that only one run uses the directory at a time"
            )
        return True
