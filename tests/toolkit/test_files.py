import hashlib
import os
import signal
import threading

import pytest

from toolkit.errors import UsageError
from toolkit.files import held_signals, name_bytes, replacing, sha256, write_bytes


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_the_block_succeeds(tmp_path):
    path = tmp_path / "a" / "b" / "model.json"
    write_bytes(path, b"first")
    with replacing(path) as temporary:
        temporary.write_bytes(b"second")
        assert path.read_bytes() == b"first"
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    assert path.read_bytes() == b"second"
    assert names(path.parent) == ["model.json"]


def test_whoever_reads_the_old_file_goes_on_reading_it(tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")
    with path.open("rb") as reader:
        write_bytes(path, b"new and longer")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new and longer"


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, OSError])
def test_a_raising_block_leaves_the_old_file_and_no_temporary(tmp_path, fault):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")

    def write_half():
        with replacing(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise fault("on purpose")

    with pytest.raises(UsageError if fault is OSError else fault):
        write_half()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.json"]


@pytest.mark.parametrize("where", ["file/model.json", "file/deeper/model.json"])
def test_a_file_in_the_place_of_the_folder_is_one_clear_line(tmp_path, where):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError) as caught:
        write_bytes(tmp_path / where, b"new")
    assert str(tmp_path / where) in str(caught.value)
    assert "choose another folder" in str(caught.value) and "space" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_folder_in_the_place_of_the_file_is_one_clear_line(tmp_path):
    (tmp_path / "model.json").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*model\.json"):
        write_bytes(tmp_path / "model.json", b"new")
    assert names(tmp_path) == ["model.json"]


def test_a_name_that_is_too_long_is_one_clear_line(tmp_path):
    with pytest.raises(UsageError, match="too long"):
        write_bytes(tmp_path / ("x" * 300), b"new")


def test_a_link_stays_one_and_what_is_write_protected_behind_it_stays_as_it_is(tmp_path):
    (tmp_path / "store").mkdir()
    stored, link = tmp_path / "store" / "hash", tmp_path / "model.json"
    stored.write_bytes(b"old")
    link.symlink_to(stored)
    write_bytes(link, b"new")
    assert link.is_symlink() and stored.read_bytes() == b"new"
    stored.chmod(0o444)
    with pytest.raises(UsageError, match=r"cannot write .*model\.json: .*write-protected"):
        write_bytes(link, b"newer")
    stored.unlink()
    write_bytes(link, b"again")
    assert link.is_symlink() and stored.read_bytes() == b"again"
    assert names(tmp_path) == ["model.json", "store"] and names(tmp_path / "store") == ["hash"]


def test_a_full_disk_leaves_the_old_file(full_disk, tmp_path):
    path = tmp_path / "model.json"
    path.write_bytes(b"old")
    with full_disk(1000), pytest.raises(UsageError, match="free some space") as refused:
        write_bytes(path, bytes(5000))
    assert str(path) in str(refused.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["model.json"]


def test_the_hash_is_the_sha256_of_the_bytes(tmp_path):
    path = tmp_path / "any"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_name_that_is_no_text_gives_the_bytes_that_it_has_on_disk():
    assert name_bytes("é" + os.fsdecode(b"\xff")) == "é".encode() + b"\xff"


@pytest.fixture
def interruptible():
    """Ctrl-C as at a terminal: where a shell starts a job in the background, it is ignored."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("interruptible")
def test_files_that_belong_together_are_all_written_before_ctrl_c_is_heard(tmp_path):
    # Who starts the tests may ignore Ctrl-C, as a shell does for background jobs.
    former = signal.signal(signal.SIGINT, signal.default_int_handler)

    def write():
        with held_signals():
            write_bytes(tmp_path / "first", b"1")
            os.kill(os.getpid(), signal.SIGINT)
            write_bytes(tmp_path / "second", b"2")

    waiting = threading.Event()
    other = threading.Thread(target=waiting.wait)
    other.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            write()
    finally:
        signal.signal(signal.SIGINT, former)
        waiting.set()
        other.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]
