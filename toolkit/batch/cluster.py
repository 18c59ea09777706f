"""The engine of many machines: a Ray Data actor pool, each actor with the model open.

One row of the dataset is one shard. The actor that gets it reads the shard's paths, grades the
files and writes the part, so that the folder of X-rays and the folder of the output must be at
the same path on every machine. Nothing but numbers goes through Ray.
"""

import logging
import os
import sys
from collections.abc import Callable, Generator
from contextlib import redirect_stdout
from typing import Any

from toolkit.batch.local import grade
from toolkit.batch.rows import Row
from toolkit.batch.run import Plan
from toolkit.batch.worker import Grader
from toolkit.errors import BatchError
from toolkit.extras import require

# Ray reads these when it is imported. Nobody is told what runs here; its own lines would mix with
# the command's; and what it starts listens to this machine alone, on any system.
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def ray(
    run: Plan, pending: list[int], workers: int | None, on_rows: Callable[[int], None]
) -> Generator[int, None, None]:
    """Grade shards on the cluster at RAY_ADDRESS, or on one started for it on this machine.

    Raises:
        BatchError: the cluster cannot be reached, or was lost.
        MissingExtraError: Ray is not installed.
    """
    os.environ.update(_QUIET)
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.update(_LOOPBACK)
    # Ray prints to stdout until it ends, and stdout is for the result alone.
    with redirect_stdout(sys.stderr):
        ray, data = require("ray", "ray"), require("ray.data", "ray")
        try:
            _connect(ray)
            yield from _grade(ray, data, run, pending, workers, on_rows)
        except Exception as error:  # Ray raises whatever it likes, plain exceptions too
            raise BatchError(
                f"Ray cannot go on: {_reason(error)}; the same command does, with any engine"
            ) from error
        finally:
            ray.shutdown()


def _connect(ray: Any) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **quiet)
    else:
        ray.init(address="local", include_dashboard=False, **quiet)


def _grade(
    ray: Any,
    data: Any,
    run: Plan,
    pending: list[int],
    workers: int | None,
    on_rows: Callable[[int], None],
) -> Generator[int, None, None]:
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    data.DataContext.get_current().enable_progress_bars = False
    gpus = 1 if run.job.provider == "cuda" else 0
    size = workers or int(ray.cluster_resources().get("GPU" if gpus else "CPU", 1))
    shards = data.from_items(
        [{"shard": shard} for shard in pending], override_num_blocks=len(pending)
    )
    done = shards.map_batches(
        _Actor,
        fn_constructor_args=(run,),
        batch_size=1,
        compute=data.ActorPoolStrategy(size=min(size, len(pending))),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in done.iter_rows():
        on_rows(int(row["files"]))
        yield int(row["shard"])


class _Actor:
    """A model, open, on one core of some machine."""

    def __init__(self, run: Plan) -> None:
        self._run = run
        self._grader = Grader(run.job)

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        """Write the part of each shard; return the shards with their numbers of files."""
        files = []
        for shard, paths in self._run.workspace.paths.shards(map(int, shards["shard"])):
            rows = self._rows(shard, paths)
            self._run.write(shard, rows)
            self._run.workspace.begun_mark(shard).unlink(missing_ok=True)
            files.append(len(rows))
        return {"shard": shards["shard"], "files": files}

    def _rows(self, shard: int, paths: list[bytes]) -> list[Row]:
        try:
            self._run.workspace.begun_mark(shard).touch(exist_ok=False)
        except FileExistsError:
            # An actor has begun this shard and died, perhaps of one of its files. So its files are
            # read in a child process, which may die without this actor.
            run = self._run
            ((_, rows),) = grade(run.job, [(shard, paths)], 1, lambda _: None)
            return rows
        return self._grader(paths)


def _reason(error: BaseException) -> str:
    # The cause is the actor's own error; Ray wraps it in advice on its settings.
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
