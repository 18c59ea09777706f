"""The process that starts the workers and minds them, whatever it was that began to serve.

`bentoml serve`, `python -m bentoml serve` and `bentoml.serve()` all ask one function of BentoML's
for the arbiter of their workers; `install` puts this module's in its place.
"""

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from bentoml import serving  # noqa: TID253
from bentoml._internal.utils import circus  # noqa: TID253
from circus import sockets as circus_sockets

from bento import owner
from bento.http import cors
from bento.watch import Watch
from bento.worker import counters, lifeline
from bento.worker.settings import OWNER_SOCKET, settings
from toolkit import bentoml_home
from toolkit.errors import ToolkitError, UsageError

_CHECK_S = 1.0
"""Between two looks for dead workers: BentoML's 10 seconds are long."""
_LONGEST_FOLDER = 80
"""Bytes of a temporary folder's path: a socket's whole path has 107."""


def install(hand_on: Callable[[], dict[str, str]]) -> None:
    """Have BentoML start and mind workers as this module does.

    Args:
        hand_on: makes what the workers share; returns their environment.
    """
    circus.create_standalone_arbiter = partial(_create, hand_on)
    # BentoML gives it addresses; looking those up would take port 99999 for 34463.
    circus_sockets.addrinfo = lambda host, port, _family: (host, port)


def _create(
    hand_on: Callable[[], dict[str, str]],
    watchers: list[Any],
    *,
    threaded: bool = False,
    **options: Any,
) -> Any:
    """Return what starts and minds the workers; end the process in one line where it cannot be."""
    try:
        for each in options["sockets"]:
            _check_port(each)
        cors.options()
        module = owner.module_for(settings())
        folder = _private_folder()
    except ToolkitError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    shared = counters.share() | lifeline.share() | hand_on()
    if module:
        shared[OWNER_SOCKET] = f"{folder.name}/owner"
        watchers.append(_owner(module, watchers[0]))
    workers = str(watchers[0].numprocesses)
    for each in watchers:
        # What configures BentoML may ask for another number of workers than TOOLKIT_WORKERS does.
        each.env = each.env | shared | {"TOOLKIT_WORKERS": workers}
        # In a container BentoML leaves dead workers dead.
        each.respawn = True
    hangup_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    # Who can write to the first socket runs any command as this user: it lies in a folder of ours.
    arbiter = (circus.ThreadedArbiter if threaded else circus.Arbiter)(
        watchers,
        endpoint=f"ipc://{folder.name}/control",
        pubsub_endpoint=f"ipc://{folder.name}/events",
        check_delay=_CHECK_S,
        **options,
    )
    arbiter.exit_stack.enter_context(folder)
    # A terminal that is closed ends the service, unless `nohup` began it.
    handlers = arbiter.ctrl.sys_hdl
    handlers.handle_hup = (lambda: None) if hangup_ignored else handlers.quit
    _watch(arbiter, Watch(lambda: _processes(watchers), counters.beats(shared)))
    return arbiter


def _owner(module: str, beside: Any) -> Any:
    """Return what minds the process that owns the card, begun like the workers beside it."""
    paths = (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))
    return serving.create_watcher(
        name="owner",
        args=["-m", module],
        numprocesses=1,
        working_dir=beside.working_dir,
        # A bento from the store is not where the service was begun.
        env=beside.env | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


def _processes(watchers: list[Any]) -> list[tuple[int, int]]:
    """Return the id of each process and the number, from 0, that it counts by."""
    service, *owners = watchers
    found = [(process.pid, process.wid - 1) for process in service.processes.values()]
    last = counters.rows(service.numprocesses) - 1
    return found + [(each.pid, last) for one in owners for each in one.processes.values()]


def _watch(arbiter: Any, watch: Watch) -> None:
    """Have the watch look whenever the arbiter looks for dead workers."""
    manage = arbiter.manage_watchers

    def look_and_manage() -> Any:
        watch.look()
        return manage()

    arbiter.manage_watchers = look_and_manage


def _check_port(wanted: Any) -> None:
    """Refuse a port that cannot be had, where circus would print a traceback."""
    with socket.socket(wanted.family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((wanted.host, wanted.port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(
                f"cannot listen on {wanted.host} port {wanted.port}: {reason}; "
                "choose another with -p"
            ) from error


def _private_folder() -> "tempfile.TemporaryDirectory[str]":
    """Make a folder that no other user looks into, whose path is short enough for sockets."""
    for place in (tempfile.gettempdir(), bentoml_home.IN_MEMORY):
        if len(os.fsencode(place)) <= _LONGEST_FOLDER and Path(place).is_dir():
            return tempfile.TemporaryDirectory(
                prefix="toolkit-", dir=place, ignore_cleanup_errors=True
            )
    raise UsageError(f"{tempfile.gettempdir()} is too long a path for sockets: set TMPDIR")
