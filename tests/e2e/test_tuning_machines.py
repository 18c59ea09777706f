"""A study on two machines with a real PostgreSQL, and what happens when one of them dies."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import optuna
import pytest
from command_line import TOOLKIT, ok
from optuna.trial import TrialState

from toolkit.tune.ledger import counted_trials
from toolkit.tune.storage import open_storage

pytestmark = pytest.mark.full
TRIALS = 10
PATIENCE = 300


def postgres_binaries():
    """The folder of initdb and pg_ctl; installed where this may be done."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found and os.geteuid() == 0 and shutil.which("apt-get"):
        # Of runlevel 1, so that the package does not start a server of its own.
        environment = os.environ | {"RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
        for command in (
            ["apt-get", "update", "-q"],
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"],
        ):
            subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL here, and it cannot be installed")
    return found[-1].parent


@pytest.fixture(scope="module")
def database(free_port):
    """The URL of an empty database on a server of its own."""
    binaries = postgres_binaries()
    folder = Path(tempfile.mkdtemp(prefix="toolkit-postgres-"))
    # The server refuses to run as root.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    port = free_port()

    def call(name, *arguments):
        command = [binaries / name, "-D", folder / "data", *arguments]
        # Not to a pipe: the server would keep it open.
        with (folder / f"{name}.log").open("w") as log:
            subprocess.run(
                command, check=True, stdout=log, stderr=log, cwd=folder, timeout=PATIENCE, **user
            )

    try:
        call("initdb", "-A", "trust", "-U", "tuner")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
        call("pg_ctl", "-w", "-o", options, "start")
        try:
            yield f"postgresql://tuner@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def machine(folder, xrays, storage):
    """Start the command as on a machine of its own: its own folder, its own processes."""
    folder.mkdir()
    options = f"--trials {TRIALS} --workers 2 --max-epochs 6 --stale-after 4"
    return subprocess.Popen(
        [TOOLKIT, "tune", "--data", xrays, "--storage", storage, *options.split()],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "stderr").open("w"),
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def test_a_killed_worker_and_a_killed_machine_lose_no_trial_and_count_none_twice(
    database, workers_of, tmp_path
):
    xrays = tmp_path / "xrays"
    ok("data", "generate", xrays, "--count", 48)
    machines = [machine(tmp_path / name, xrays, database) for name in ("one", "two")]
    storage = open_storage(database, make=True)

    def trials():
        try:
            return optuna.load_study(study_name="default", storage=storage).get_trials()
        except KeyError:
            return []

    def under_way():
        """Trials that have trained an epoch and not ended, by the command that runs them."""
        return [
            each
            for each in trials()
            if each.state == TrialState.RUNNING and each.intermediate_values
        ]

    try:
        end = time.monotonic() + PATIENCE
        while len(under_way()) < 4 and time.monotonic() < end:
            assert all(each.poll() is None for each in machines)
            time.sleep(0.05)
        os.kill(workers_of(machines[0])[0], signal.SIGKILL)
        os.killpg(machines[1].pid, signal.SIGKILL)
        assert machines[0].wait(PATIENCE) == 0, (tmp_path / "one" / "stderr").read_text()
    finally:
        for each in machines:
            if each.poll() is None:
                os.killpg(each.pid, signal.SIGKILL)
            each.wait()
    told = (tmp_path / "one" / "stderr").read_text()
    assert "a worker ended by signal 9" in told
    assert "was lost with its worker" in told
    states = [trial.state for trial in counted_trials(trials())]
    assert states == [TrialState.COMPLETE] * TRIALS
    complete = [each for each in trials() if each.state == TrialState.COMPLETE]
    assert len(complete) == TRIALS
    assert len({each.user_attrs["seed"] for each in complete}) == TRIALS
