import os
import subprocess
import time

import pytest

from data_pipeline.files import atomic
from data_pipeline.files.atomic import atomic_file, remove_leftovers


def test_atomic_file_leaves_the_old_content_when_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_file(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_long_name_on_a_machine_of_a_long_name_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_HOST", atomic._short_host("node-" + "x" * 200 + ".example.org"))
    for name in ("i" * 180 + "-strip.png", "é" * 120):
        with atomic_file(tmp_path / name) as file:
            (temporary,) = tmp_path.glob(".*.tmp")
            assert atomic._TEMPORARY.fullmatch(temporary.name)
            file.write(b"whole")
        assert (tmp_path / name).read_bytes() == b"whole"


def test_only_what_the_dead_left_is_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    host = atomic._HOST
    keep = [f".a.tar.{host}.{os.getpid()}.00.tmp", ".a.tar.elsewhere.1.00.tmp", "a.tmp", ".x.tmp"]
    gone = [f".a.tar.{host}.{dead.pid}.00.tmp", ".old.tar.elsewhere.1.00.tmp"]
    for name in keep + gone:
        (tmp_path / name).touch()
    two_days_ago = time.time() - 48 * 3600
    os.utime(tmp_path / gone[1], (two_days_ago, two_days_ago))
    assert {path.name for path in remove_leftovers(tmp_path)} == set(gone)
    assert {path.name for path in tmp_path.iterdir()} == set(keep)
