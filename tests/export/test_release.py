"""A finished fit becomes a folder that is whole, true to the fit and free of this machine."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from eramv_lab.errors import UserError
from eramv_lab.export.files import copy_model, verify, without_paths
from eramv_lab.export.release import export_run, find_run, model_folder
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.recipe.resolve import load_recipe


def export(runs: Path, out: Path, name: str = "small") -> Path:
    export_run(find_run(name, runs), out)
    return out


@pytest.fixture(scope="module")
def released(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(made, tmp_path_factory.mktemp("released") / "tiny-one")


def test_the_folder_holds_the_model_and_nothing_of_the_fit(made: Path, released: Path) -> None:
    found = {f.relative_to(released).as_posix() for f in released.rglob("*")}
    model = {"model.safetensors", "config.json", "generation_config.json"}
    processor = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
    processor |= {"chat_template.jinja"}
    about = {"recipe.yaml", "README.md", "files.json"}
    assert found - {"example.png"} == model | processor | about
    run = find_run("small", made)
    for name in model | processor:
        assert (released / name).read_bytes() == (run.folder / name).read_bytes(), name
        assert (released / name).stat().st_mode & 0o044 == 0o044  # others may read it


def test_transformers_loads_it_and_it_answers_as_the_fit(made: Path, released: Path) -> None:
    ours = EramvForConditionalGeneration.from_pretrained(find_run("small", made).folder)
    model = AutoModelForImageTextToText.from_pretrained(released)
    processor = AutoProcessor.from_pretrained(released)
    from PIL import Image

    picture = Image.new("RGB", (96, 96), "red")
    given = processor(images=picture, text=processor.write("color of digit 3"))
    with torch.no_grad():
        assert torch.equal(model.eval()(**given).logits, ours.eval()(**given).logits)


def test_its_recipe_reads_back_to_the_fit(made: Path, released: Path, monkeypatch) -> None:
    monkeypatch.chdir(released)
    assert load_recipe("recipe.yaml").arms["main"].hash == find_run("small", made).result["hash"]


def test_no_path_of_this_machine_is_in_it(made: Path, released: Path) -> None:
    for file in released.rglob("*"):
        assert str(made.parent).encode() not in file.read_bytes(), file


def test_every_file_is_held_by_its_hash(released: Path, tmp_path: Path) -> None:
    verify(released)
    folder = Path(shutil.copytree(released, tmp_path / "spoilt"))
    (folder / "config.json").write_text("{}")
    (folder / "recipe.yaml").unlink()
    (folder / "new.bin").touch()
    with pytest.raises(UserError) as caught:
        verify(folder)
    assert [problem.message for problem in caught.value.problems] == [
        "is not what was released",
        "is not told in files.json",
        "is missing",
    ]
    (folder / "files.json").write_text("[]")
    with pytest.raises(UserError, match=r"files\.json: cannot be read"):
        verify(folder)


def test_an_adapter_goes_along_without_its_path(runs: Path, fit: Path, tmp_path: Path) -> None:
    (fit / "adapter").mkdir()
    shutil.copy(fit / "model.safetensors", fit / "adapter" / "adapter_model.safetensors")
    about = {"base_model_name_or_path": "/home/somebody/data/eramv-tiny", "r": 8}
    (fit / "adapter" / "adapter_config.json").write_text(json.dumps(about))
    (fit / "adapter" / "README.md").write_text("/home/somebody")
    result = json.loads((fit / "result.json").read_text())
    result["adapter"] = {"folder": "adapter", "start": "/home/somebody/data/eramv-tiny"}
    (fit / "result.json").write_text(json.dumps(result))
    out = export(runs, tmp_path / "out")
    written = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert written == {"base_model_name_or_path": "eramv-tiny", "r": 8}
    verify(out)
    card = (out / "README.md").read_text()
    assert "## The adapter" in card and "`eramv-tiny`" in card and "somebody" not in card
    assert "`adapter/adapter_model.safetensors`" in card and "folder too" not in card
    (fit / "start").mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(fit / name, fit / "start" / name)
    card = (export(runs, tmp_path / "more") / "README.md").read_text()
    assert "`start/model.safetensors`" in card and "in this folder too" in card
    (fit / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"adapter_config\.json: is missing"):
        export(runs, tmp_path / "other")


def test_paths_are_their_last_part() -> None:
    plain = {"a": "/x/y/z", "b": ["/x/y", "org/name", "/", 3], "c": {"d": "data"}}
    assert without_paths(plain) == {"a": "z", "b": ["y", "org/name", "/", 3], "c": {"d": "data"}}


# --- which fit


def second(fit: Path, seed: int = 1) -> Path:
    """Another seed of the fit."""
    folder = Path(shutil.copytree(fit, fit.parent / fit.name.replace("-s0-", f"-s{seed}-")))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(result | {"seed": seed}))
    return folder


def test_a_fit_is_found_by_its_folder_or_its_study(runs: Path, fit: Path) -> None:
    assert find_run("small", runs).folder == fit
    assert find_run(str(fit), runs).folder == fit
    assert find_run(f"small/{fit.name}", runs).folder == fit
    other = second(fit)
    assert find_run("small", runs, seed=1).folder == other
    assert find_run("small", runs, "main", 0).folder == fit
    assert model_folder("small", runs, seed=1) == other
    with pytest.raises(UserError) as caught:
        find_run("small", runs)
    assert "small holds 2 finished fits: say which" in str(caught.value)
    assert "allowed: --arm main --seed 0|1" in str(caught.value)


def test_the_card_names_every_seed(runs: Path, fit: Path, tmp_path: Path) -> None:
    second(fit)
    export_run(find_run("small", runs, seed=1), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "seeds: seed 0: 0." in card and ", seed 1: 0." in card and "those of seed 1." in card


def broken(fit: Path, what: str) -> str:
    """Spoil a fit; the message that is due."""
    files = ("result.json", "predictions.jsonl", "model.safetensors", "processor_config.json")
    result, answers, weights, processor = (fit / name for name in files)
    if what == "unfinished":
        result.unlink()
        return "has no result.json: the fit has not finished"
    if what == "pruned":
        result.rename(fit / "pruned.json")
        return "ended early"
    if what == "result":
        result.write_text("{")
        return "result.json cannot be read"
    if what == "answers":
        answers.unlink()
        return "predictions.jsonl cannot be read"
    if what == "config":
        (fit / "config.json").write_text("{'")
        return "config.json: cannot be read as JSON"
    if what == "gone":
        weights.unlink()
        processor.unlink()
        return "2 problems"
    weights.write_bytes(weights.read_bytes()[:-100])
    return "model.safetensors: is cut off or damaged"


SPOILT = ("unfinished", "pruned", "result", "answers", "config", "gone", "truncated")


@pytest.mark.parametrize("what", SPOILT)
def test_a_fit_that_is_not_whole_is_refused(
    runs: Path, fit: Path, tmp_path: Path, what: str
) -> None:
    said = broken(fit, what)
    with pytest.raises(UserError) as caught:
        export(runs, tmp_path / "new" / "out", str(fit))
    assert said in str(caught.value) and str(fit) in str(caught.value)
    assert not list((tmp_path / "new").glob("*"))


def test_what_is_not_there_is_said_with_what_is(runs: Path, fit: Path) -> None:
    with pytest.raises(UserError, match="did you mean: small"):
        find_run("smal", runs)
    with pytest.raises(UserError, match="has no arm 'man'\n    did you mean: main"):
        find_run("small", runs, arm="man")
    with pytest.raises(UserError, match="no finished fit of seed 7\n    allowed: --arm main"):
        find_run("small", runs, seed=7)
    shutil.rmtree(fit)
    with pytest.raises(UserError, match=r"small has no finished fit$"):
        find_run("small", runs)


def test_a_standalone_folder_has_its_code_and_its_card_says_so(made: Path, tmp_path: Path) -> None:
    export_run(find_run("small", made), tmp_path / "out", standalone=True)
    verify(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trust_remote_code=True" in card and "import eramv_lab" not in card
    assert "`modeling_eramv.py`" in card
    assert "auto_map" in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("kind", ["full", "file", "link"])
def test_only_a_new_folder_is_written(made: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "full":
        out.mkdir()
        (out / "mine.txt").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        (tmp_path / "else").mkdir()
        out.symlink_to(tmp_path / "else")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not empty" if kind == "full" else "not a folder"):
        export(made, out)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("below", [".", "out", "deep/out"])
def test_what_is_written_lies_elsewhere(fit: Path, below: str) -> None:
    before = sorted(fit.rglob("*"))
    with pytest.raises(UserError, match="lies within"):
        export_run(find_run(str(fit), fit.parent), fit / below)
    assert sorted(fit.rglob("*")) == before


def test_an_empty_folder_will_do(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    verify(export(made, tmp_path / "out"))


def test_a_recipe_that_does_not_read_back_stands_alone(
    runs: Path, fit: Path, tmp_path: Path
) -> None:
    result = json.loads((fit / "result.json").read_text())
    (fit / "result.json").write_text(json.dumps(result | {"hash": "00000000"}))
    out = export(runs, tmp_path / "out")
    assert "python -m eramv_lab fit" not in (out / "README.md").read_text()
    assert str(runs.parent) not in (out / "recipe.yaml").read_text()


def test_all_that_a_folder_lacks_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    with pytest.raises(UserError) as caught:
        copy_model(tmp_path, tmp_path / "new")
    names = [Path(problem.file or "").name for problem in caught.value.problems]
    assert {"config.json", "model.safetensors", "processor_config.json"} <= set(names)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(names)
