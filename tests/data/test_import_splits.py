"""Which split of an import a sample is in: an image in one alone, `val` from what is trained on."""

import json
from pathlib import Path

import pytest

from data.imports import kept, named, run, sample
from data.pictures import GOOD
from eramv_lab.data.planning import SPLITS
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Manifest
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.fits import check_sizes
from eramv_lab.recipe.schema import EvaluateConfig, TrainConfig, parse_data


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


def test_val_is_taken_of_what_would_be_trained_on(source, imported, tmp_path):
    none, large = (run(source, tmp_path / str(n), val_share=n) for n in (0, 0.4))
    assert Manifest.load(none).splits.keys() == {"train", "test"}
    assert "val_share" not in Manifest.load(none).config
    assert named(none, "test") == named(imported, "test") == named(large, "test")
    assert len(named(imported, "val")) == 1 and named(imported, "val") < named(large, "val")
    assert named(large, "train") < named(imported, "train") < named(none, "train")


def overlapping(source: Path, folder: Path, split: str, **shares: float) -> Path:
    """An import of every good image, as samples a0, a1, ..., beside a file for `split` that has all
    but three of them, as samples b3, b4, ...
    """
    names = [f"coco/{name}" for name in sorted(GOOD)]
    files: dict[str, Path] = {}
    for key, first in (("a", 0), ("b", 3)):
        samples = [sample(name, id=f"{key}{n}") for n, name in enumerate(names) if n >= first]
        files[key] = folder / f"{key}.json"
        files[key].write_text(json.dumps(samples))
    return run(source, folder / "own", file=files["a"], **{split: files["b"]}, **shares)


def test_val_of_a_file_of_its_own(source, tmp_path):
    """No image of it is held out as `test`, though all else of the first file may be."""
    out = overlapping(source, tmp_path, "val", hold_out=0.01)
    assert named(out, "val") == {f"b{n}" for n in range(3, len(GOOD))}
    assert len(named(out, "test")) == 1 and named(out, "test") < {"a0", "a1", "a2"}


def test_val_shares_no_image_with_a_test_file(source, tmp_path):
    out = overlapping(source, tmp_path, "test", val_share=0.99)
    assert named(out, "val") < {"a0", "a1", "a2"} and len(named(out, "val")) == 2


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
