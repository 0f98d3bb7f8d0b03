"""Start measuring processes as forks of one that has loaded what they load, and nothing else of this process.

A measuring process takes a second to import NumPy, SciPy and this package; a fork of one that has done so
takes milliseconds. There is one such server for each environment that a process is to find, and it was
started with that environment: what libraries read when they load is what they would have read. Its forks
are adopted by the process that asked, which waits for them, signals them and reads their status as of any
child.

A test that is about the start itself uses the fixture `fresh_processes`.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import runpy
import socket
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_PR_SET_CHILD_SUBREAPER = 36  # of linux/prctl.h
_LONGEST = 1 << 20  # bytes of a request
_LOOK_S = 0.002
_RARELY = 32  # looks before a wait takes longer between them

# What stands in for the interpreter, with the words that it runs before those that it is given.
STAND_INS: dict[str, list[str]] = {}

# What differs from test to test and is read by no library.
_PASSING = ("PYTEST_CURRENT_TEST",)
_INTERPRETER = sys.executable
_servers: dict[tuple[tuple[str, str], ...], Server] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Hold a server of one environment and the channel to it."""

    process: subprocess.Popen[bytes]
    channel: socket.socket


class Forked:
    """Be to `harness.measure.process` what a `subprocess.Popen` is."""

    def __init__(self, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> None:
        """Hold a child of this process and the ends of its pipes."""
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status when it has one. Raises subprocess.TimeoutExpired."""
        began, looks = time.monotonic(), 0
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            looks += 1
            time.sleep(_LOOK_S if looks < _RARELY else 10 * _LOOK_S)
        return status


def _serve_from(environment: dict[str, str]) -> socket.socket:
    """Return the channel to the server of an environment, started where there is none."""
    key = tuple(sorted(environment.items()))
    if key not in _servers:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [_INTERPRETER, "-P", __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        _servers[key] = Server(process=process, channel=ours)
    return _servers[key].channel


def end() -> None:
    """End all servers."""
    for server in _servers.values():
        server.channel.close()
        server.process.wait()
    _servers.clear()


def start(
    command: list[str], *, stdin: int, stdout: int, stderr: IO[Any], env: dict[str, str],
    process_group: int, bufsize: int,
) -> Forked | subprocess.Popen[bytes]:  # fmt: skip
    """Start a Python that runs `command`, as `subprocess.Popen` would."""
    interpreter, *words = command
    stands = STAND_INS.get(interpreter)
    if stands is None and interpreter != _INTERPRETER:
        return subprocess.Popen(
            command, stdin=stdin, stdout=stdout, stderr=stderr, env=env,
            process_group=process_group, bufsize=bufsize,
        )  # fmt: skip
    channel = _serve_from({name: value for name, value in env.items() if name not in _PASSING})
    request = json.dumps({"words": [*(stands or []), *words], "folder": os.getcwd(), "env": env})
    read_in, write_in = os.pipe()
    read_out, write_out = os.pipe()
    libc = ctypes.CDLL(None)
    # For as long as it takes, what loses its parent becomes a child of this process.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(channel, [request.encode()], [read_in, write_out, stderr.fileno()])
        pid = int(channel.recv(_LONGEST))
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        os.close(read_in)
        os.close(write_out)
    return Forked(pid, os.fdopen(write_in, "wb", 0), os.fdopen(read_out, "rb", 0))


def _run(words: list[str]) -> None:
    """Run `-P -c CODE WORD...` or `FILE WORD...`."""
    if words[:2] == ["-P", "-c"]:
        sys.argv = ["-c", *words[3:]]
        exec(words[2], {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name="__main__")


def _become(channel: socket.socket, request: dict[str, Any], fds: list[int], parent: int) -> None:
    """Be the process that was asked for: say so when it is adopted, then run it to its end."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S / 10)
    os.setpgid(0, 0)
    channel.send(str(os.getpid()).encode())
    channel.close()
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["env"])
    status: Any = 0
    try:
        _run(request["words"])
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(channel: socket.socket) -> None:
    """Fork for each request until nobody asks any more."""
    while True:
        data, fds, _, _ = socket.recv_fds(channel, _LONGEST, 3)
        if not data:
            return
        if (between := os.fork()) == 0:
            parent = os.getpid()
            if os.fork() == 0:
                _become(channel, json.loads(data), list(fds), parent)
            os._exit(0)
        os.waitpid(between, 0)
        for fd in fds:
            os.close(fd)


def main() -> None:
    """Load what measuring processes load, and serve."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    import scipy.linalg
    import scipy.special  # noqa: F401

    import harness.measure.worker  # noqa: F401
    from harness.records import variables

    # Its patterns are compiled as they are first met.
    variables.find_foreign(os.environ)
    _serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
