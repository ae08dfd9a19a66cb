"""Import: every sample is kept or named, and what is no data at all is refused."""

import json
import sys

import numpy as np
import pytest

from data.imports import kept, run, sample
from data.pictures import BAD, GOOD, scene
from eramv_lab.data.importing import import_llava
from eramv_lab.data.planning import SPLITS
from eramv_lab.data.shards import Manifest
from eramv_lab.errors import UserError


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
