import os
import shutil
import socket
import subprocess
import sys

import optuna
import pytest

from toolkit.errors import MissingExtraError, UsageError
from toolkit.tune.storage import open_storage, public_name


def study_in(path):
    study = optuna.create_study(
        storage=open_storage(str(path), make=True), study_name="s", load_if_exists=True
    )
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    return study


def test_a_line_that_a_killed_writer_left_unfinished_is_cut_off(tmp_path):
    path = tmp_path / "study.journal"
    study_in(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code":4,"worker')
    assert len(study_in(path).trials) == 2
    assert path.read_bytes().startswith(whole)


def test_a_lock_that_a_killed_writer_left_is_taken_over(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study_in(path)
    (tmp_path / "study.journal.lock").touch()
    storage = open_storage(str(path), make=True)
    lock = storage._backend._lock
    assert lock.grace_period == 30
    # As if half a minute had passed at each look.
    clock = iter(range(0, 10**6, 31))
    monkeypatch.setattr("optuna.storages.journal._file.time.monotonic", lambda: next(clock))
    optuna.create_study(storage=storage, study_name="other")
    assert not (tmp_path / "study.journal.lock").exists()


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv, of util-linux")
def test_a_journal_that_cannot_be_written_is_read_all_the_same(tmp_path):
    path = tmp_path / "logs" / "study.journal"
    path.parent.mkdir()
    study_in(path)
    path.chmod(0o444)
    path.parent.chmod(0o555)
    script = (
        "import sys; from toolkit.tune.storage import open_storage as o; "
        "print(len(o(sys.argv[1], make=False).get_all_studies()))"
    )
    # Root may write anything: without its capabilities it may not.
    command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] * (os.getuid() == 0)
    done = subprocess.run(
        [*command, sys.executable, "-c", script, path], capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize("content", [b"hello\n", b"hello", b"[1]\n", b'{"a": 1}\n', b"\xff\x00\n"])
def test_a_file_that_is_no_journal_is_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="not a journal"):
        open_storage(str(path), make=True)
    assert path.read_bytes() == content


def test_a_journal_damaged_in_the_middle_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "study.journal"
    study_in(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:10] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(UsageError, match="damaged"):
        open_storage(str(path), make=True)
    assert path.read_bytes() == b"".join(lines)


def test_a_journal_is_not_made_by_who_only_reads(tmp_path):
    with pytest.raises(UsageError, match="no studies at"):
        open_storage(str(tmp_path / "none.journal"), make=False)
    assert list(tmp_path.iterdir()) == []


def test_a_journal_in_a_place_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot use the journal"):
        open_storage(str(tmp_path / "file" / "study.journal"), make=True)


@pytest.mark.parametrize("url", ["sqlite:///x.db", "redis://localhost", "http://localhost/x"])
def test_what_workers_cannot_share_is_refused(url):
    with pytest.raises(UsageError, match="no kind"):
        open_storage(url, make=True)


@pytest.fixture
def closed_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("password", ["secret", "sec%40ret", "sec@ret"])
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    scheme, closed_port, password
):
    with pytest.raises((UsageError, MissingExtraError)) as refused:
        open_storage(f"{scheme}://me:{password}@127.0.0.1:{closed_port}/x", make=True)
    assert "ret" not in str(refused.value)


def test_a_proxy_that_does_not_answer_is_named(closed_port, monkeypatch):
    monkeypatch.setattr("toolkit.tune.storage._GRPC_TIMEOUT", 0.2)
    with pytest.raises(UsageError, match="no Optuna proxy answers"):
        open_storage(f"grpc://127.0.0.1:{closed_port}", make=True)


@pytest.mark.parametrize("url", ["grpc://host", "grpc://host:x", "grpc://:13000"])
def test_a_proxy_needs_a_host_and_a_port(url):
    with pytest.raises(UsageError, match="is not grpc://HOST:PORT"):
        open_storage(url, make=True)


def test_a_database_url_that_makes_no_sense_is_refused():
    with pytest.raises((UsageError, MissingExtraError)):
        open_storage("postgresql://u:p@host:port/x", make=True)
    with pytest.raises(UsageError, match="host cannot be read") as caught:
        open_storage("postgresql://u:secret@[", make=True)
    assert "secret" not in str(caught.value)


def test_a_storage_is_shown_without_user_and_password():
    assert public_name("postgresql://me:p@ss@host:5432/db?x=1") == "postgresql://host:5432/db"
    assert public_name("logs/study.journal") == "logs/study.journal"


def test_a_study_lies_behind_a_proxy_as_in_its_storage(free_port, tmp_path):
    from optuna.storages._grpc.server import make_server

    behind = open_storage(str(tmp_path / "study.journal"), make=True)
    port = free_port()
    server = make_server(behind, "127.0.0.1", port)
    server.start()
    try:
        from toolkit.tune.ledger import open_ledger

        mine = open_ledger(open_storage(f"grpc://127.0.0.1:{port}", make=True), "s", {}, 2, 0)
        claim = mine.claim("w")
        claim.trial.suggest_float("x", 0, 1)
        mine.study.tell(claim.trial, 1.0)
        second = mine.claim("w")
        assert mine.give_up_worker("w", "lost with its worker") == [second.trial.number]
        assert not mine.give_up(mine.trials()[1], "lost with its worker")
    finally:
        server.stop(None)
    assert len(optuna.load_study(study_name="s", storage=behind).trials) == 3
