"""Import: every sample is kept or named, nothing is read or written elsewhere, a rerun goes on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from data.pictures import BAD, GOOD, scene
from eramv_lab.data import importing, packing
from eramv_lab.data.formats import llava
from eramv_lab.data.formats.conversation import Unusable
from eramv_lab.data.importing import import_llava
from eramv_lab.data.planning import SPLITS
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Manifest
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.fits import check_sizes
from eramv_lab.recipe.schema import EvaluateConfig, TrainConfig, parse_data


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]


def sample(image: str | None = None, *texts: str, **more) -> dict:
    plain = {"conversations": turns(*(texts or ("<image>\nWhat is it?", "A flag.")))}
    return plain | ({"image": image} if image else {}) | more


TEXT_ONLY = sample(None, "Say hello.", "Hello.", id="words")
LINES = ("<image>\nWhat is left?", "Red.", "And right?", "Blue.")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A folder with images/ of every kind, good and bad, and all.json that names them all."""
    folder = tmp_path_factory.mktemp("source")
    for kind, files in (("coco", GOOD), ("gqa", {n: c for n, (c, _) in BAD.items()})):
        (folder / "images" / kind).mkdir(parents=True)
        for name, content in files.items():
            (folder / "images" / kind / name).write_bytes(content)
    (folder / "secret.png").write_bytes(GOOD["plain.png"])
    (folder / "images" / "link.png").symlink_to(folder / "secret.png")
    (folder / "images" / "out").symlink_to(folder)
    os.mkfifo(folder / "images" / "pipe.png")
    samples = [sample(f"coco/{name}", *LINES, id=name) for name in GOOD]
    samples += [sample(f"gqa/{name}", id=name) for name in BAD]
    samples += [TEXT_ONLY, sample("coco/none.jpg", id="missing")]
    (folder / "all.json").write_text(json.dumps(samples))
    return folder


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "own"
    return run(source, out, processes=1)


def run(source: Path, out: Path, **options) -> Path:
    options = {"processes": 1, "shard_size": 4, "console": Console(quiet=True)} | options
    return import_llava(
        options.pop("file", source / "all.json"), source / "images", out, shown=False, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def kept(folder: Path) -> dict[str, tuple]:
    """Image and questions of every sample by the id that its questions carry."""
    found = {}
    for split in Manifest.load(folder).splits:
        dataset = ShardDataset(folder, split, verify=True)
        for index in range(len(dataset)):
            one = dataset[index]
            found[one.questions[0].key.rpartition("-")[0]] = (split, one)
    return found


# --- what comes out


def test_every_good_picture_is_kept_and_every_bad_one_is_named(imported):
    samples = kept(imported)
    assert samples.keys() == {*GOOD, "words"}
    assert np.array_equal(samples["plain.png"][1].image_HWC, scene())
    assert samples["words"][1].image_HWC is None
    skipped = Manifest.load(imported).skipped
    expected = {name: (f"gqa/{name}", reason) for name, (_, reason) in BAD.items()}
    expected["missing"] = ("coco/none.jpg", "no such image file")
    assert {s["id"]: s["file"] for s in skipped} == {n: f for n, (f, _) in expected.items()}
    for one in skipped:
        assert one["reason"].startswith(expected[one["id"]][1])


def test_turns_keys_and_types(imported):
    one = kept(imported)["plain.jpg"][1]
    assert [tuple(q) for q in one.questions] == [
        ("plain.jpg-0", "What is left?", "Red.", "coco", False, ()),
        ("plain.jpg-1", "And right?", "Blue.", "coco", True, ()),
    ]
    assert one.key.startswith(("train-0", "test-0", "val-0"))


def test_the_manifest_counts(imported, source):
    plain = json.loads((imported / "manifest.json").read_text())
    splits = plain["splits"].values()
    wanted = {"samples": len(GOOD) + 1, "images": len(GOOD), "questions": 2 * len(GOOD) + 1}
    for what, count in wanted.items():
        assert sum(split[what] for split in splits) == count
    assert all(split["samples"] >= 1 for split in splits) and plain["splits"].keys() == {*SPLITS}
    assert {kind for split in splits for kind in split["types"]} == {"coco", "text"}
    assert str(source) not in json.dumps(plain)


def test_links_to_one_image_are_one_image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "it.png").write_bytes(GOOD["plain.png"])
    (tmp_path / "images" / "other.png").write_bytes(GOOD["grey.png"])
    for number in range(30):
        (tmp_path / "images" / f"l{number}.png").symlink_to("it.png")
    named = [sample(f"{dot}l{n}.png", id=f"{dot}{n}") for n in range(30) for dot in ("", "./")]
    named += [sample("other.png", id="other")]
    (tmp_path / "all.json").write_text(json.dumps(named))
    manifest = Manifest.load(run(tmp_path, tmp_path / "own", file=tmp_path / "all.json"))
    assert sorted(manifest.counts(s)["samples"] for s in ("train", "test")) == [1, 60]


def test_an_image_that_many_samples_share_is_in_one_split(source, tmp_path):
    samples = [sample(f"coco/{name}", id=f"{name}{n}") for n in range(3) for name in GOOD]
    (tmp_path / "a.json").write_text(json.dumps(samples))
    out = run(source, tmp_path / "own", file=tmp_path / "a.json", hold_out=0.4)
    splits: dict[str, set[str]] = {split: set() for split in SPLITS}
    for name, (split, _) in kept(out).items():
        splits[split].add(name[:-1])
    assert all(splits.values()) and len(set.union(*splits.values())) == len(GOOD)
    assert sum(map(len, splits.values())) == len(GOOD)


def test_a_test_file_is_the_held_out_split(source, tmp_path, capsys):
    (tmp_path / "a.json").write_text(json.dumps([sample("coco/grey.png"), sample("coco/bits.png")]))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, [sample("coco/bits.png")] * 2)))
    files = {"file": tmp_path / "a.json", "test": tmp_path / "b.jsonl", "val_share": 0}
    out = run(source, tmp_path / "own", **files, console=None)
    assert (len(ShardDataset(out, "train")), len(ShardDataset(out, "test"))) == (2, 2)
    assert kept(out).keys() == {"#1", "#2", "#1~2", "#2~2"}
    assert "1 images are in more than one split" in capsys.readouterr().out


def named(folder: Path, split: str) -> set[str]:
    return {name for name, (where, _) in kept(folder).items() if where == split}


def test_val_is_taken_of_what_would_be_trained_on(source, imported, tmp_path):
    none, large = (run(source, tmp_path / str(n), val_share=n) for n in (0, 0.4))
    assert Manifest.load(none).splits.keys() == {"train", "test"}
    assert "val_share" not in Manifest.load(none).config
    assert named(none, "test") == named(imported, "test") == named(large, "test")
    assert len(named(imported, "val")) == 1 and named(imported, "val") < named(large, "val")
    assert named(large, "train") < named(imported, "train") < named(none, "train")


def test_val_of_a_file_of_its_own(source, tmp_path):
    """No image of it is held out as `test`, though all else of the first file may be."""
    names = [f"coco/{name}" for name in sorted(GOOD)]
    (tmp_path / "a.json").write_text(json.dumps([sample(n, id=f"a{n}") for n in names]))
    (tmp_path / "b.json").write_text(json.dumps([sample(n, id=f"b{n}") for n in names[3:]]))
    files = {"file": tmp_path / "a.json", "val": tmp_path / "b.json"}
    out = run(source, tmp_path / "own", **files, hold_out=0.01)
    assert named(out, "val") == {f"b{n}" for n in names[3:]}
    assert len(named(out, "test")) == 1 and named(out, "test") < {f"a{n}" for n in names[:3]}


def test_val_shares_no_image_with_a_test_file(source, tmp_path):
    names = [f"coco/{name}" for name in sorted(GOOD)]
    (tmp_path / "a.json").write_text(json.dumps([sample(n, id=f"a{n}") for n in names]))
    (tmp_path / "b.json").write_text(json.dumps([sample(n, id=f"b{n}") for n in names[3:]]))
    files = {"file": tmp_path / "a.json", "test": tmp_path / "b.json"}
    out = run(source, tmp_path / "own", **files, val_share=0.99)
    assert named(out, "val") < {f"a{n}" for n in names[:3]} and len(named(out, "val")) == 2


def test_val_leaves_something_to_train_on(source, tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([sample(f"coco/{n}.png") for n in ("grey", "bits")])
    )
    out = run(source, tmp_path / "own", file=tmp_path / "a.json", val_share=0.9)
    assert Manifest.load(out).splits.keys() == {"train", "test"}


def test_a_val_file_of_nothing_is_refused(source, tmp_path):
    (tmp_path / "b.json").write_text(json.dumps([sample("no.png")]))
    with pytest.raises(UserError, match="nothing to keep in the split val"):
        run(source, tmp_path / "own", val=tmp_path / "b.json")


def test_an_import_without_val_serves_but_is_not_asked_for_it(source, tmp_path, imported):
    """As one of before there was such a split."""
    old = run(source, tmp_path / "own", val_share=0)
    for folder, told in (
        (imported, []),
        (old, ["data.shards has no split 'val': import it again, with --val-share or --val"]),
    ):
        problems: list[Problem] = []
        data = parse_data({"type": "shards", "shards": {"path": str(folder)}}, problems)
        assert data is not None and not problems
        train, val = TrainConfig(images=1, questions=1), EvaluateConfig(split="val")
        assert not list(check_sizes(data, train, EvaluateConfig()))
        assert [problem.message for problem in check_sizes(data, train, val)] == told


def test_ids_that_repeat_are_made_unique(source, tmp_path):
    ids = ["a", "a", "a~2", None, 7, "7", True]
    samples = [sample(f"coco/{name}", id=i) for i, name in zip(ids, GOOD, strict=False)]
    (tmp_path / "a.json").write_text(json.dumps(samples))
    out = run(source, tmp_path / "own", file=tmp_path / "a.json")
    assert len(kept(out)) == len(ids)


def test_the_table_says_what_was_left_out_and_how_to_go_on(source, tmp_path, capsys):
    out = run(source, tmp_path / "own", console=None)
    told = capsys.readouterr().out
    assert "damaged image" in told and "too many pixels" in told and "gqa/bomb.png" in told
    assert f'data: {{type: shards, shards: {{path: "{out}"}}}}' in told


# --- what a sample may look like


@pytest.mark.parametrize(
    ("first", "question"),
    [
        ("<image>\nWhat?", "What?"),
        ("What?\n<image>", "What?"),
        ("One\n<image>\ntwo", "One\ntwo"),
        ("What?", "What?"),
        ("<image>", ""),
        ("  <image> What?\n", "What?"),
    ],
)
def test_the_mark_of_the_image_goes_with_its_newline(first, question):
    assert llava.parse(sample("a.jpg", first, "It.")).turns == ((question, "It."),)


@pytest.mark.parametrize(
    "plain",
    [
        {"image": ["a.jpg"], "conversations": turns("<image>\nQ", "A")},
        {"image": "a.jpg", "messages": turns("<image>\nQ", "A", "and a last one")},
        {
            "image": "a.jpg",
            "conversations": [
                {"role": "user", "content": "<image>\nQ"},
                {"role": "assistant", "content": "A"},
            ],
        },
    ],
)
def test_other_ways_to_say_the_same(plain):
    said = llava.parse(plain)
    assert (said.image, said.turns, said.type) == ("a.jpg", (("Q", "A"),), "image")


@pytest.mark.parametrize(
    ("image", "more", "kind"),
    [
        ("coco/train2017/1.jpg", {}, "coco"),
        ("00453/004539375.jpg", {}, "image"),
        ("1.jpg", {}, "image"),
        ("coco/1.jpg", {"type": "count"}, "count"),
        ("coco/1.jpg", {"category": "color", "type": None}, "color"),
        ("coco/1.jpg", {"type": 3}, "coco"),
    ],
)
def test_the_type_of_a_question(image, more, kind):
    assert llava.parse(sample(image, **more)).type == kind


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        (3, "not a JSON object"),
        ({"image": "a.jpg"}, "no turns"),
        (sample(image=["a.jpg", "b.jpg"]), "several images"),
        (sample("a.jpg") | {"image": 3}, "image is not a path"),
        (sample(), "<image> and no image"),
        (sample("a.jpg", "<image><image>", "A"), "<image> stands more than once"),
        (sample("a.jpg", "Q", "A", "<image>", "B"), "<image> in a later turn"),
        (sample("a.jpg", "Q", "an <image>"), "<image> in an answer"),
        (sample("a.jpg", "Q", " \n"), "an empty answer"),
        (sample("a.jpg", "Q", "A", " ", "B"), "an empty question"),
        (sample(None, "", "A"), "an empty question"),
        (sample("a.jpg", "Q"), "no answer"),
        ({"conversations": turns("Q", "A")[::-1]}, "turns out of order"),
        ({"conversations": [{"from": "system", "value": "Q"}]}, "a turn of an unknown role"),
        ({"conversations": [{"from": "human", "value": 3}]}, "a turn without text"),
        ({"conversations": ["Q"]}, "a turn is not a JSON object"),
        (sample(None, "Q", "\ud800"), "text that is not Unicode"),
    ],
)
def test_samples_that_cannot_be_used(plain, reason):
    with pytest.raises(Unusable, match=f"^{reason}"):
        llava.parse(plain)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.png", "the path leaves the image folder"),
        ("coco/../../secret.png", "the path leaves the image folder"),
        ("/etc/passwd", "the path leaves the image folder"),
        ("pipe.png", "the image is no plain file"),
        ("coco", "the image is no plain file"),
        ("coco/no.jpg", "no such image file"),
        ("coco/plain.png/x", "no such image file"),
        ("a\0b", "no such image file"),
        ("https://example.org/a.jpg", "no such image file"),
        ("x" * 5000, "the image file cannot be read"),
    ],
)
def test_files_that_are_not_read(source, name, reason):
    with pytest.raises(Unusable, match=f"^{reason}"):
        packing.read_image(str((source / "images").resolve()), name)


def test_links_of_ones_own_are_followed(source):
    """As many keep their COCO: linked into the image folder."""
    _, content = packing.read_image(str((source / "images").resolve()), "out/secret.png")
    assert content == (source / "secret.png").read_bytes()


# --- what is no data at all


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "it is empty"),
        ("{", "neither a JSON list nor JSON lines"),
        ('{"a": 1}', "the first with the keys 'a'"),
        ("[1, 2]", "the first is a int"),
        ("[" * 100_000, "neither a JSON list"),
        ('[{"conversations": []}]', "1 left out: no turns"),
        (json.dumps([sample("no.png"), sample("gqa/cut.jpg")]), "1 left out: no such image file"),
        (json.dumps([sample("coco/plain.png")]), "nothing to keep in the split train"),
    ],
)
def test_files_of_nothing_are_refused_and_nothing_is_written(source, tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "out" / "own", file=tmp_path / "a.json")
    assert [file.name for file in tmp_path.glob("out/*")] in ([], [".own.lock"])


def test_bytes_that_are_no_text_are_refused(source, tmp_path):
    (tmp_path / "a.json").write_bytes(b"[\xff\xfe]")
    with pytest.raises(UserError, match="neither a JSON list"):
        run(source, tmp_path / "own", file=tmp_path / "a.json")


def test_a_bad_line_is_left_out_by_its_place(source, tmp_path):
    lines = [json.dumps(sample(f"coco/{name}")) for name in GOOD]
    (tmp_path / "a.jsonl").write_text("\n".join([*lines[:3], "{broken", *lines[3:], ""]))
    out = run(source, tmp_path / "own", file=tmp_path / "a.jsonl")
    assert Manifest.load(out).skipped == [{"id": "#4", "file": "", "reason": "not a JSON object"}]


def test_every_wrong_option_is_told_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        import_llava(tmp_path / "no", tmp_path / "no", tmp_path / "out", hold_out=1, shard_size=0)
    assert len(error.value.problems) == 4 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"val_share": -0.1}, r"val-share is -0\.1, expected a share"),
        ({"val_share": 1}, "val-share is 1, expected a share"),
        ({"hold_out": 0}, "hold-out is 0, expected a share"),
        ({"hold_out": 0.5, "val_share": 0.5}, "leave nothing to train on"),
        ({"val": Path(__file__), "val_share": 0.1}, "give --val or --val-share, not both"),
        ({"test": Path(__file__), "hold_out": 0.1}, "give --test or --hold-out, not both"),
    ],
)
def test_shares_that_cannot_be(source, tmp_path, shares, message):
    with pytest.raises(UserError, match=message):
        run(source, tmp_path / "own", **shares)


# --- the same bytes, however often it was cut off


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


def test_the_command_line(source, tmp_path, monkeypatch, capsys):
    from eramv_lab import cli

    line = ["eramv-lab", "data", "import", str(source / "all.json"), str(tmp_path / "own")]
    line += ["--images", str(source / "images")]
    for split, share in (("--test", "--hold-out"), ("--val", "--val-share")):
        monkeypatch.setattr(sys, "argv", [*line, split, "x", share, "0.1"])
        with pytest.raises(SystemExit, match="2"):
            cli.main()
    monkeypatch.setattr(sys, "argv", [*line, "--processes", "1", "--val-share", "0"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert Manifest.load(tmp_path / "own").splits.keys() == {"train", "test"}
