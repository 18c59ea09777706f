"""A run from its beginning, or from wherever the last one ended, to the finished file."""

import os
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from toolkit.batch import rows
from toolkit.batch.paths import SHARD, scan
from toolkit.batch.worker import Job, path_text
from toolkit.batch.workspace import Result, Workspace, identity
from toolkit.errors import DataError, InterruptedRunError, UsageError
from toolkit.extras import versions
from toolkit.files import replacing
from toolkit.processes import cores
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit.runtime.session import Predictor

Engine = Callable[
    ["Plan", list[int], int | None, Callable[[int], None]], Generator[int, None, None]
]
"""Grades shards and writes their parts: from a run, the shards' numbers, the number of workers (or
all cores), and what hears of new rows, to the number of each shard that is done."""


@dataclass(frozen=True)
class Plan:
    """What is done to what.

    Attributes:
        job: what the workers open, with the model's hash and the absolute folder.
        pattern: of the files, beneath that folder.
        setup: all that the rows depend on, as plain values: what a run goes on with.
        workspace: where it lies until it is finished.
    """

    job: Job
    pattern: str
    setup: dict[str, Any]
    workspace: Workspace

    @property
    def schema(self) -> Any:
        """The Arrow schema of the rows, with what they are of as its metadata."""
        names = ("model", "model_sha256", "toolkit", "provider", "folder", "pattern")
        metadata = {name: self.setup[name] for name in names}
        given = {"expected_grade": "grades", "decision": "operating_point"}
        lacking = [name for name, source in given.items() if not self.setup[source]]
        return rows.schema(self.setup["classes"], metadata, lacking)

    def part_schema(self, shard: int) -> Any:
        """Return the schema of a part, which names its plan and shard as well."""
        schema = self.schema
        of = {"plan_sha256": self.workspace.plan_sha256(), "shard": str(shard)}
        return schema.with_metadata(schema.metadata | of)

    def write(self, shard: int, found: list[rows.Row]) -> None:
        """Write the part of a shard."""
        rows.write_part(found, self.part_schema(shard), self.workspace.part(shard))

    def drop_unfit(self, files: int) -> None:
        """Remove each part that is damaged or of another run: its shard is done again."""
        for shard in self.workspace.done(-(-files // SHARD)):
            part = self.workspace.part(shard)
            if not rows.is_whole(part, self.part_schema(shard), _size([shard], files)):
                part.unlink()


def setup(predictor: "Predictor", folder: Path, pattern: str) -> dict[str, Any]:
    """Return all that the rows of a run depend on, as plain values."""
    meaning = predictor.meaning
    return {
        "model": predictor.name,
        "model_sha256": predictor.sha256,
        "folder": path_text(os.fsencode(folder)),
        "pattern": path_text(os.fsencode(pattern)),
        "shard": SHARD,
        "provider": predictor.provider,
        "toolkit": versions("toolkit").get("toolkit", "unknown"),
        "classes": list(meaning.classes),
        "grades": [list(grades) for grades in meaning.grades],
        "abstain_below": meaning.abstain_below,
        "novelty_limit": meaning.novelty_limit,
        "operating_point": msgspec.to_builtins(meaning.operating_point),
    }


def finish(run: Plan, engine: Engine, workers: int | None) -> dict[str, Any]:
    """Do what is left of a run, and return what came of it, as plain values.

    Raises:
        UsageError: the file is there already or cannot be written, another run is at work on
            it, or its parts are of another run.
        DataError: there is no file to grade.
        WorkerError: workers die as soon as they are started.
        BatchError: the machine lacks what it takes, or parts were damaged since they were
            written; the same command goes on.
        InterruptedRunError: Ctrl-C; the same command goes on.
    """
    workspace = run.workspace
    if workspace.out.exists() and not workspace.folder.exists():
        raise _taken(workspace.out)
    with workspace.locked():
        if workspace.out.exists():
            # The last run may have ended after it wrote the file and before it removed the parts.
            result = workspace.result(run.setup)
            if result is None:
                raise _taken(workspace.out)
            content = {"resumed": result.files, "seconds": 0.0, "per_second": 0.0}
        else:
            files = workspace.resume(run.setup) or 0
            try:
                if files:
                    run.drop_unfit(files)
                files = files or _freeze(run)
                content = _grade(run, files, engine, workers)
                result = _join(run, files)
            except KeyboardInterrupt:
                raise _stopped(run, files) from None
        workspace.remove()
    found = {"classes": result.tally["label"], "errors": result.tally["error"]}
    return {"files": result.files, **content, **found}


def local(
    run: Plan, pending: list[int], workers: int | None, on_rows: Callable[[int], None]
) -> Generator[int, None, None]:
    """Grade on this machine, in worker processes, as `toolkit.batch.local` says."""
    from toolkit.batch.local import grade

    shards = run.workspace.paths.shards(pending)
    count = workers or cores()
    with closing(grade(run.job, shards, count, on_rows)) as graded:
        for shard, rows in graded:
            run.write(shard, rows)
            yield shard


def _freeze(run: Plan) -> int:
    workspace = run.workspace
    left_out = (workspace.out.name, workspace.folder.name)
    with Progress("files found") as progress:
        paths = scan(run.job.folder, run.pattern, left_out)
        files = workspace.paths.freeze(paths, progress.reach)
    if not files:
        workspace.remove()
        raise DataError(
            f"no file in {run.job.folder} matches {run.pattern}: check the folder and pattern"
        )
    workspace.begin(run.setup, files)
    return files


def _grade(run: Plan, files: int, engine: Engine, workers: int | None) -> dict[str, Any]:
    pending = run.workspace.pending(-(-files // SHARD))
    resumed = files - _size(pending, files)
    with Progress("X-rays", files, resumed) as progress:
        if pending:
            with closing(engine(run, pending, workers, progress.advance)) as shards:
                for _ in shards:
                    pass
        return {"resumed": resumed, "seconds": progress.seconds, "per_second": progress.rate}


def _join(run: Plan, files: int) -> Result:
    workspace = run.workspace
    parts = (workspace.part(shard) for shard in range(-(-files // SHARD)))
    with Progress("rows joined", files) as progress, replacing(workspace.out) as temporary:
        tally = rows.join(parts, run.schema, temporary, progress.reach)
        result = Result(run.setup, files, identity(temporary), tally)
        workspace.finish(result)
    return result


def _size(shards: list[int], files: int) -> int:
    """How many of so many files are in those shards."""
    return sum(min(SHARD, files - shard * SHARD) for shard in shards)


def _taken(out: Path) -> UsageError:
    return UsageError(f"{out} is there already: move it away, or choose another --out")


def _stopped(run: Plan, files: int) -> InterruptedRunError:
    done = 0
    if files:
        done = files - _size(run.workspace.pending(-(-files // SHARD)), files)
    return InterruptedRunError(
        f"stopped with {done:,} X-rays saved: the same command goes on from there"
    )
