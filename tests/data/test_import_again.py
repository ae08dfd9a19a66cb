"""An import that was cut off, or is given again: the same bytes, and nothing else is touched."""

import json
import os
import signal
import subprocess
import sys

import pytest

from data.imports import TEXT_ONLY, contents, run, sample
from data.pictures import GOOD
from eramv_lab.data import importing, packing
from eramv_lab.data.formats import llava
from eramv_lab.errors import LabError, UserError


def test_the_same_bytes_whatever_the_processes(source, tmp_path):
    few = {"shard_size": 16}
    alone, together = (run(source, tmp_path / str(n), processes=n, **few) for n in (1, 2))
    assert contents(alone) == contents(together)


def test_the_same_bytes_after_a_writer_that_fails(source, imported, tmp_path, monkeypatch):
    write, done = packing.write_shard, []

    def counted(path, samples, **options):
        done.append(path)
        return write(path, samples, **options)

    def full(path, samples, **options):
        if len(done) == 3:
            raise OSError(28, "No space left on device")
        return counted(path, samples, **options)

    monkeypatch.setattr(packing, "write_shard", counted)
    run(source, tmp_path / "other")
    shards = len(done)
    done.clear()
    monkeypatch.setattr(packing, "write_shard", full)
    with pytest.raises(LabError, match="No space left on device") as error:
        run(source, tmp_path / "own")
    assert error.value.exit_code == 1 and "the same command goes on" in str(error.value)
    work = tmp_path / ".own.importing"
    assert len(list(work.glob("*.json"))) == 3 and not (tmp_path / "own").exists()
    # a shard that was harmed meanwhile is written again, the others are not
    harmed = next(work.glob("shards/*.tar"))
    harmed.write_bytes(harmed.read_bytes()[:-1])
    done.clear()
    monkeypatch.setattr(packing, "write_shard", counted)
    out = run(source, tmp_path / "own")
    assert len(done) == shards - 2
    assert contents(out) == contents(imported) and not work.exists()


def test_the_same_bytes_after_a_kill(source, imported, tmp_path):
    line = [sys.executable, "-m", "eramv_lab", "data", "import", str(source / "all.json")]
    line += [str(tmp_path / "own"), "--images", str(source / "images"), "--shard-size", "4"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.Popen([*line, "--processes", "2"], env=environment)
    work = tmp_path / ".own.importing"
    while not list(work.glob("shards/*.tar")) and killed.poll() is None:
        os.sched_yield()
    killed.kill()
    assert killed.wait() == -signal.SIGKILL and not (tmp_path / "own").exists()
    assert contents(run(source, tmp_path / "own")) == contents(imported)


def test_a_finished_import_is_left_alone(source, tmp_path, imported, monkeypatch, capsys):
    monkeypatch.setattr(importing, "pack", lambda *_: pytest.fail("imported again"))
    before = {file: file.stat().st_mtime_ns for file in imported.iterdir()}
    run(source, imported, console=None)
    assert "nothing to do" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in imported.iterdir()} == before


def test_what_stands_in_the_way_is_never_removed(source, tmp_path, imported):
    with pytest.raises(UserError, match=r"another import \(shard_size differ\).*remove it"):
        run(source, imported, shard_size=5)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("years")
    with pytest.raises(UserError, match="not empty and no import"):
        run(source, tmp_path / "own")
    assert (tmp_path / "own" / "thesis.txt").read_text() == "years"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run(source, tmp_path / "file")


def test_other_pictures_are_another_import(source, tmp_path):
    images = tmp_path / "images" / "coco"
    images.mkdir(parents=True)
    for name in ("plain.png", "grey.png"):
        (images / name).write_bytes(GOOD[name])
    (tmp_path / "a.json").write_text(
        json.dumps([sample(f"coco/{n.name}") for n in images.iterdir()])
    )
    run(tmp_path, tmp_path / "own", file=tmp_path / "a.json")
    (images / "grey.png").write_bytes(GOOD["thin.png"])
    with pytest.raises(UserError, match="images differ"):
        run(tmp_path, tmp_path / "own", file=tmp_path / "a.json")


def test_work_of_another_import_is_not_mixed_in(source, imported, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise OSError(5, "gone")

    monkeypatch.setattr(packing, "write_shard", gone)
    with pytest.raises(LabError, match="gone"):
        run(source, tmp_path / "own", hold_out=0.5)
    monkeypatch.undo()
    assert contents(run(source, tmp_path / "own")) == contents(imported)


def test_a_process_without_its_parent_stops(source, tmp_path):
    item = packing.Item(number=0, key="train-000000", name="a", said=llava.parse(TEXT_ONLY))
    job = packing.Job(name="train-000000", work=str(tmp_path), images="/", items=[item])
    (tmp_path / "shards").mkdir()
    with pytest.raises(SystemExit):
        packing.pack(job, parent=-1)
    assert not list(tmp_path.rglob("*.*"))
    packing.pack(job, parent=os.getppid())
    assert job.tar.is_file() and job.note.is_file()
