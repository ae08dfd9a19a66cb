"""The command line: light where it must be, one message and exit code 2 for bad input."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from eramv_lab import cli

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "lightning", "transformers", "mlflow", "optuna", "omegaconf")
NEVER = ("lightning", "pytorch_lightning", "transformers", "mlflow", "optuna")
SMALL = """\
model:
  vision: tiny
  language: tiny
  connector: mlp2x_gelu
  anchors: {type: cls_topk, count: 8, cls: true}
  band: {start: 2, length: 2}
  bridge: mlp
base: none
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a recipe of one arm, one of two, and a bad one."""
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(SMALL)
    Path("two.yaml").write_text("extends: small.yaml\narms: {a: {}, b: {model.band: none}}\n")
    Path("bad.yaml").write_text("extends: small.yaml\nmodel.anchors.cout: 3\n")
    return tmp_path


@pytest.fixture
def lab(monkeypatch, capsys):
    """Runs a command line in this process: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["eramv-lab", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


def modules_after(*lines: list[str], watched: tuple[str, ...]) -> list[str]:
    """Which of `watched` a fresh process has imported after running command lines."""
    script = (
        "import contextlib, io, sys\n"
        "from eramv_lab.cli import main\n"
        f"for line in {list(lines)!r}:\n"
        "    sys.argv = ['eramv-lab', *line]\n"
        "    with contextlib.redirect_stdout(io.StringIO()):\n"
        "        try: main()\n"
        "        except SystemExit as end: assert not end.code, (line, end.code)\n"
        f"print(*[name for name in {watched!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def complete(*words: str) -> list[str]:
    environment = os.environ | {
        "_ERAMV_LAB_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["eramv-lab", *words]),
        "COMP_CWORD": str(len(words)),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "eramv_lab"]
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout.split()


# --- light


def test_help_and_version_import_nothing_heavy():
    assert modules_after(["--help"], ["fit", "--help"], ["--version"], watched=HEAVY) == []


def test_help_is_instant():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "eramv_lab", "--help"], cwd=ROOT, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 0.3  # of the processor: others may be at work


def test_reading_verbs_import_torch_at_most():
    recipe = "experiments/ablation_ca.yaml"
    lines = (["check", recipe], ["cost", recipe], ["list"], ["describe", "attend"])
    assert modules_after(*lines, watched=NEVER) == []


def test_completion(here):
    assert set(complete("fit", "s")) == {"small.yaml"}
    assert complete("fit", "two.yaml", "--arm", "") == ["a", "b"]
    assert "model.band.start=" in complete("fit", "small.yaml", "model.b")
    assert "cls_topk" in complete("describe", "cls") and "bridge" in complete("list", "br")
    assert {"chat", "compare", "cost", "check"} >= set(complete("c")) != set()
    for file in ("sweeps/wide.yaml", "runs/wide/search.json", "runs/other/study.json"):
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).touch()
    assert complete("sweep", "") == ["sweeps/wide.yaml"]
    assert complete("compare", "") == ["other", "wide"]


# --- what the verbs print


def test_cost_json(here, lab):
    code, out, _ = lab("cost", "small.yaml", "--json")
    flat = json.loads(out)
    parts = ("vision", "connector", "bridge", "llm", "head")
    assert code == 0 and flat["text_tokens"] == 64
    assert flat["prefill_tflops"] == pytest.approx(sum(flat[f"{p}_tflops"] for p in parts))
    assert {"parameters", "kv_mib"} < flat.keys()
    _, out, _ = lab("cost", "two.yaml", "--json", "--text-tokens", "10", "model.anchors.count=4")
    arms = json.loads(out)["arms"]
    assert list(arms) == ["a", "b"] and arms["a"]["text_tokens"] == 10
    assert arms["b"]["visual_tokens"] == 5
    _, out, _ = lab("cost", "two.yaml", "--json", "--arm", "b")
    assert list(json.loads(out)["arms"]) == ["b"]


def test_cost_at_another_length_leaves_matches_as_they_are(here, lab):
    at_64 = json.loads(lab("cost", str(ROOT / "experiments/ablation_ca.yaml"), "--json")[1])["arms"]
    line = ("cost", str(ROOT / "experiments/ablation_ca.yaml"), "--json", "--text-tokens", "8")
    code, out, _ = lab(*line)  # no FastV costs what `eramv` does at this length
    at_8 = json.loads(out)["arms"]
    assert code == 0 and {one["text_tokens"] for one in at_8.values()} == {8}
    for name, one in at_8.items():
        assert one["visual_tokens"] == at_64[name]["visual_tokens"]
        assert one["prefill_tflops"] < at_64[name]["prefill_tflops"]


def test_cost_and_check_in_words(here, lab):
    assert "prefill" in lab("cost", "two.yaml")[1]
    code, out, _ = lab("check", "two.yaml")
    assert code == 0 and out.splitlines()[-1].startswith("ok: two.yaml, 2 arm(s)")
    assert "9 visual tokens, 144 fine, band 2, 3" in out and "model.band: none" in out


def test_cost_of_many_recipes(here, lab):
    code, out, _ = lab("cost", "small.yaml", "two.yaml", "--json", "model.anchors.count=4")
    found = json.loads(out)["recipes"]
    assert code == 0 and found["small"]["visual_tokens"] == 5
    assert found["two"]["arms"]["b"]["share_of_full"] < 1
    code, out, _ = lab("cost", "small.yaml", "two.yaml", "--gpu", "h100", "--convention", "shortv")
    assert code == 0 and "two/b" in out and "h100 ms b32" in out and "data sheet" in out


def test_cost_at_a_shape(here, lab):
    shape = str(ROOT / "experiments/scale/llava15_7b.yaml")
    _, out, _ = lab("cost", "small.yaml", "--shape", shape, "--json")
    assert json.loads(out)["parameters"] > 7e9
    _, out, _ = lab("cost", "small.yaml", "--shape", shape, "--shape", "two.yaml", "--json")
    assert list(json.loads(out)["shapes"]) == [shape, "two.yaml"]
    assert "## two.yaml" in lab("cost", "two.yaml", "--shape", "two.yaml", "--markdown")[1]


def test_cost_of_one_file_twice_is_one_row(here, lab):
    _, out, _ = lab("cost", "small.yaml", f"{here}/small.yaml", "--json")
    assert "share_of_full" in json.loads(out)


def test_cost_of_what_is_no_recipe_names_what_was_asked_for(here, lab):
    Path("base.yaml").write_text("kind: base\n")
    Path("deeper.yaml").write_text("extends: base.yaml\nlanguage.layers: 8\n")
    code, _, err = lab("cost", "deeper.yaml")
    assert code == 2 and err.startswith("error: deeper.yaml: kind: this is the recipe of a base")
    assert "(base.yaml:1)" in err
    code, _, err = lab("cost", f"{here}/")
    assert code == 2 and f"{here} is a folder" in err
    assert f"did you mean: {here}/*.yaml" in err


def test_a_system_out_of_reach_is_listed_and_marked(here, lab):
    folder = Path("experiments/systems")
    folder.mkdir(parents=True)
    told = (
        "extends: ../../small.yaml\nsystem: {name: N, source: s, acts: a, trains: t, knob: none}\n"
    )
    (folder / "llava.yaml").write_text(told + "model: {anchors: all, band: none}\n")
    count = "{match_flops_of: full, share: 0.01}"
    arms = f"arms: {{full: {{}}, b: {{model: {{band: none, anchors.count: {count}}}}}}}\n"
    (folder / "dear.yaml").write_text(told + arms)
    code, out, _ = lab("list", "systems")
    assert code == 0 and "100.0%" in out
    assert "dear: not reached: experiments/systems/dear.yaml:3: model.anchors.count" in out
    found = json.loads(lab("list", "systems", "--json")[1])
    assert "not_reached" in found["dear"] and found["llava"]["prefill_share"] == 1


def test_cost_reports_what_is_wrong_in_all_files(here, lab):
    Path("worse.yaml").write_text(
        "extends: small.yaml\nmodel: {anchors: nope, bridge: {typ: mlp}}\n"
    )
    code, out, err = lab("cost", "bad.yaml", "small.yaml", "worse.yaml", "nowhere.yaml")
    assert (code, out) == (2, "")
    assert "bad.yaml:2" in err and "there is no file nowhere.yaml" in err
    assert "there is no anchors 'nope'" in err and "'typ'" in err
    for line in (["--gpu", "h1000"], ["--convention", "fast"], ["--shape", "large"]):
        code, _, err = lab("cost", "small.yaml", *line)
        assert code == 2 and "there is no " in err, err
    assert "name a YAML file" in lab("cost", "model.band=none")[2]


def test_list_and_describe(lab):
    assert "cls_topk" in lab("list", "anchors")[1] and "gate" not in lab("list", "anchors")[1]
    code, out, _ = lab("describe", "bridge/low_rank")
    assert code == 0 and "rank" in out and "bridges/low_rank.py" in out
    assert "fine/all" in lab("describe", "all")[1]  # two components are called so
    for name in ("train", "base", "world", "reducer"):
        assert lab("describe", name)[0] == 0


def test_version(lab):
    assert lab("--version")[:2] == (0, "eramv_lab 0.1.0\n")


# --- bad input


BAD = [
    (["fitt"], "fit"),
    (["fit"], "RECIPE"),
    (["fit", "smal.yaml"], "did you mean: small.yaml"),
    (["fit", "."], "is a folder"),
    (["fit", "bad.yaml"], "bad.yaml:2: model.anchors.cout: unknown key 'cout'"),
    (["fit", "small.yaml", "--sed", "1"], "--sed"),
    (["fit", "small.yaml", "--seed", "one"], "--seed"),
    (["fit", "small.yaml", "--workers", "0"], "--workers"),
    (["fit", "small.yaml", "--runs", "bad.yaml"], "bad.yaml/small: Not a directory"),
    (["fit", "two.yaml", "--arm", "aa"], "did you mean: a"),
    (["fit", "small.yaml", "train.step=3"], "did you mean: steps"),
    (["fit", "small.yaml", "train.steps=many"], "command line: train.steps"),
    (["fit", "small.yaml", "train.steps"], "expected key=value"),
    (["fit", "small.yaml", "=3"], "expected key=value"),
    (["fit", "small.yaml", "model.band=[1, 2"], "command line: model.band"),
    (["fit", "small.yaml", "model.band.start=9"], "the language model has 6"),
    (["fit", "small.yaml", "model.bridge=mpl"], "did you mean: mlp"),
    (["fit", "small.yaml", "model.anchors.count={match_flops_of: b}"], "no arm 'b'"),
    (["fit", "two.yaml", "arms.c.train.steps=1"], "no arm 'c'"),
    (["fit", "small.yaml", "extends=two.yaml"], "extends"),
    (["fit", "small.yaml", "plugins=[nowhere_to_be_found]"], "nowhere_to_be_found"),
    (["fit", "small.yaml", "seeds=[1, 1]"], "twice"),
    (["check", "bad.yaml"], "did you mean: count"),
    (["cost", "small.yaml", "--text-tokens", "0"], "--text-tokens"),
    (["cost", "small.yaml", "cost.text_tokens=-1"], "greater than or equal to 1"),
    (["list", "anchor"], "did you mean: anchors"),
    (["describe", "clstopk"], "did you mean: cls_topk"),
    (["describe", "anchors/mpl"], "allowed: all, cls_topk"),
    (["data", "inspect", "small.yaml", "--split", "dev"], "no split 'dev'"),
    (["data", "mak"], "mak"),
    (["base", "small.yaml", "base=nope.yaml"], "no file nope.yaml"),
    (["ui", "--port", "99999999"], "--port"),
    (["export", "nothing"], "export: expected RUN and OUT, found nothing"),
    (["export", "a", "b", "--from-llava", "c", "--recipe", "d"], "export: expected OUT, found a b"),
    (["export", "new", "--from-llava", "x"], "--from-llava: needs --recipe"),
    (["export", "a", "b", "--standalone", "--to-llava"], "--to-llava and --standalone: give one"),
    (["export", "a", "b", "--recipe", "small.yaml"], "--recipe: goes with --from-llava"),
    (["export", "nothing", "new"], "no study or run folder 'nothing'"),
    (["export", "nothing", "new", "--private"], "--private: goes with --push"),
    (["export", "nothing", "new", "--push", "a/b/c"], "--push: Repo id must"),
    (["analyse", "nothing"], "no study or run folder 'nothing'"),
    (["analyse", "nothing", "--images", "0"], "--images"),
    (["compare"], "names"),
    (["compare", "nothing"], "nothing"),
    (["compare", "nothing", "--plot", "new/x.xyz"], "allowed: .png, .pdf, .svg"),
]


@pytest.mark.parametrize(("line", "said"), BAD, ids=[" ".join(line) for line, _ in BAD])
def test_bad_input_gives_one_report_and_leaves_nothing(here, lab, line, said):
    before = sorted(here.rglob("*"))
    code, out, err = lab(*line)
    assert code == 2 and said in err and "Traceback" not in err + out
    assert err.lower().count("error:") == 1
    assert [p for p in sorted(here.rglob("*")) if "__pycache__" not in p.parts] == before


def test_all_problems_in_one_report(here, lab):
    _, _, err = lab("fit", "bad.yaml", "train.lrr=1", "seeds=[x]", "model.band.start=9")
    assert err.startswith("error: 4 problems\n1. ")


@pytest.mark.parametrize("verb", ["check", "cost", "fit"])
def test_nothing_feasible_is_exit_code_3(here, lab, verb):
    dearer = "{model.anchors.count: {match_flops_of: a}}"
    Path("none.yaml").write_text(
        "extends: small.yaml\narms:\n"
        "  a: {model.band: none, model.anchors.count: 1}\n"
        f"  b: {dearer}\n  c: {dearer}\n  d: {{base.arm: b}}\n"
    )
    code, out, err = lab(verb, "none.yaml")
    assert (code, out) == (3, "") and not Path("runs").exists()
    first, one, two = err.splitlines()
    assert first == "error: 2 problems"
    assert one.startswith("1. none.yaml:4: model.anchors.count: no count from 1 to ")
    assert one.endswith("too much (arm b)") and "none.yaml:5:" in two
    code, _, err = lab(verb, "none.yaml", "arms.c.train.lrr=1")
    assert code == 2 and err.startswith("error: 3 problems") and "(arm c)" in err


def test_an_interrupt_has_its_code(here, lab, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "load", interrupt)
    assert lab("check", "small.yaml")[0] == 130
