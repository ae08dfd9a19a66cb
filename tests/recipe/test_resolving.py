"""Checked arms: identity, hash, matches, bases, and every problem at once in its place."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from eramv_lab.errors import InfeasibleError, UserError
from eramv_lab.recipe.diff import differences
from eramv_lab.recipe.resolve import Recipe, load_recipe


def problems_of(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return caught.value.problems


def study(write, text: str) -> str:
    write("study.yaml", "extends: small.yaml\n" + text)
    return "study.yaml"


def hash_of(*overrides) -> str:
    return load_recipe("small.yaml", overrides).arms["main"].hash


# --- what a sound recipe becomes


def test_sections_are_typed(write):
    recipe = load_recipe("small.yaml", ["evaluate.images=20", "train.clip=none"])
    arm = recipe.arms["main"]
    assert (recipe.name, recipe.seeds, recipe.has_arms) == ("small", (0, 1), False)
    assert (arm.train.lr, arm.train.clip, arm.evaluate.images) == (1e-3, None, 20)
    assert arm.train.roles.vision == "frozen" and len(arm.data.world.objects) == 2
    assert arm.spec.band == (2, 3) and arm.spec.anchors.count == 8


@pytest.mark.parametrize(
    "change",
    [
        "{}",
        "{model.band: none}",
        "{model.band: late, model.bridge: {type: low_rank, rank: 4}, model.sharing: lora}",
        "{model.anchors: all, model.band: none, model.reducer: fastv}",
        "{model.reducer: [{type: drop, layer: 2, keep: 3}, {type: drop, layer: 4, keep: 1}]}",
        "{train.clip: none, train.roles.vision: full, data.world.mix: {digit: 1.0}}",
        "{model.vision: {type: hf, config: {model_type: clip_vision_model, hidden_size: 64,"
        " intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4, image_size: 96,"
        " patch_size: 8, x: null}}}",
    ],
)
def test_yaml_to_config_to_yaml_is_the_identity(write, change):
    first = load_recipe(study(write, f"arms: {{one: {change}, two: {{}}}}\n"))
    write("again.yaml", yaml.safe_dump(first.to_plain(), sort_keys=False))
    again = load_recipe("again.yaml")
    assert again.to_plain() == first.to_plain()
    assert [a.hash for a in again.arms.values()] == [a.hash for a in first.arms.values()]
    arm = first.arms["one"]
    write("arm.yaml", yaml.safe_dump(arm.with_seed(3).plain, sort_keys=False))
    alone = load_recipe("arm.yaml")
    assert (alone.seeds, alone.arms["main"].hash) == ((3,), arm.hash)


def test_every_key_is_given(write):
    arm = load_recipe("small.yaml").arms["main"]
    for name in ("train", "evaluate", "cost", "trainer", "base"):
        fields = {f.name for f in dataclasses.fields(getattr(arm, name))}
        assert set(arm.plain[name]) == fields


def test_hash_knows_results_alone(write):
    same = [
        hash_of(),
        hash_of("question=other"),
        hash_of("train.log_every=3"),
        hash_of("seeds=[5]"),
    ]
    same += [hash_of("data.folder=x"), hash_of("trainer.threads=2"), hash_of("train.lr=0.001")]
    assert len(set(same)) == 1
    others = {
        hash_of("train.lr=0.002"),
        hash_of("model.anchors.count=7"),
        hash_of("data.world.seed=1"),
        hash_of("evaluate.split=val"),
    }
    assert len(others | {same[0]}) == 5
    arm = load_recipe("small.yaml").arms["main"]
    assert arm.with_seed(1).hash == arm.hash and arm.with_seed(1).plain["seed"] == 1


def test_match_flops_of(write):
    recipe = load_recipe(
        study(
            write,
            "arms:\n"
            "  equal: {model.band: none, model.anchors.count: {match_flops_of: band}}\n"
            "  band: {}\n",
        )
    )
    equal = recipe.arms["equal"]
    assert equal.matched == {"model.anchors.count": "band"}
    assert equal.plain["model"]["anchors"]["count"] == equal.spec.anchors.count > 8
    from eramv_lab.cost.formula import price

    target = price(recipe.arms["band"].spec).prefill
    below = dataclasses.replace(
        equal.spec,
        anchors=dataclasses.replace(equal.spec.anchors, count=equal.spec.anchors.count - 1),
    )
    assert price(below).prefill < target <= price(equal.spec).prefill
    by_hand = load_recipe(
        "study.yaml", [f"arms.equal.model.anchors.count={equal.spec.anchors.count}"]
    )
    assert by_hand.arms["equal"].hash == equal.hash


def test_a_match_asks_the_solver_it_is_given(write):
    text = "arms:\n  a: {}\n  b: {model.anchors.count: {match_flops_of: a}}\n"
    path = study(write, text)
    recipe = load_recipe(path, solver=lambda spec_of, other, cost, match: 5)
    assert recipe.arms["b"].spec.anchors.count == 5

    def nothing(spec_of, other, cost, match):
        raise InfeasibleError("no number will do")

    at = r"study\.yaml:4: model\.anchors\.count: no number will do \(arm b\)"
    with pytest.raises(InfeasibleError, match="^" + at):
        load_recipe(path, solver=nothing)
    with pytest.raises(UserError, match=r"2 problems\n(.*\n)*.*" + at) as caught:
        load_recipe(path, ["seeds=[x]"], solver=nothing)
    assert caught.value.exit_code == 2

    def unsound(spec_of, other, cost, match):
        raise UserError("no model")

    with pytest.raises(UserError, match="no model"):
        load_recipe(path, solver=unsound)


def test_a_match_prices_both_arms_for_one_input(write):
    text = (
        "cost: {text_tokens: 32}\narms:\n"
        "  band: {cost.text_tokens: 64}\n"
        "  equal:\n"
        "    model.band: none\n"
        "    model.anchors.count: {match_flops_of: band}\n"
        "    cost.batch: 2\n"
    )
    path = study(write, text)
    first, second = problems_of(path)
    assert (first.line, first.key, second.line, second.key) == (
        2,
        "cost.text_tokens",
        8,
        "cost.batch",
    )
    whose = "in arm band, whose FLOPs model.anchors.count matches (arm equal)"
    assert first.message == f"is 32, but 64 {whose}" and second.message == f"is 2, but 1 {whose}"
    alike = load_recipe(path, ["arms.equal.cost={text_tokens: 64, batch: 1}"])
    assert alike.arms["equal"].spec.anchors.count > 8


def test_an_arm_that_starts_from_another(write):
    text = "arms:\n  a: {train.steps: 2}\n  b: {base.arm: a, train.steps: 0}\n"
    recipe = load_recipe(study(write, text))
    a, b = recipe.arms.values()
    assert b.parent is a and b.with_seed(3).parent.seed == 3
    changed = load_recipe("study.yaml", ["arms.a.train.steps=9"])
    assert changed.arms["b"].hash != b.hash


def test_plugins_add_components(write, monkeypatch):
    monkeypatch.syspath_prepend(".")
    write(
        "third_party_bridge.py",
        '''
        """A bridge from outside."""
        from dataclasses import dataclass
        from eramv_lab.registry import BRIDGE
        from eramv_lab.slots.bridges.mlp import Mlp, MlpConfig

        @dataclass(frozen=True, kw_only=True)
        class OutsideConfig(MlpConfig):
            """A bridge from outside."""

        @BRIDGE.register("outside", OutsideConfig)
        class Outside(Mlp):
            """As mlp."""
        ''',
    )
    path = study(write, "plugins: [third_party_bridge]\nmodel.bridge: outside\n")
    assert load_recipe(path).arms["main"].plain["model"]["bridge"]["type"] == "outside"
    (problem, *_) = problems_of(path, "plugins=[no_such_module]", "model.bridge=mlp")
    assert problem.key == "plugins" and "no_such_module" in problem.message
    write("broken_plugin.py", "1 / 0\n")
    (problem,) = problems_of(path, "plugins=broken_plugin", "model.bridge=mlp")
    assert "ZeroDivisionError" in problem.message
    write("leaving_plugin.py", "import sys\nsys.exit(0)\n")
    (problem,) = problems_of(path, "plugins=leaving_plugin", "model.bridge=mlp")
    assert problem.message == "plugin 'leaving_plugin' failed: SystemExit: 0"


# --- what is wrong with others


WRONG = {
    # the line added to the small recipe: key, part of the message, nearest
    "modl: {}": ("modl", "unknown key", "model"),
    "model.bandd: none": ("model.bandd", "unknown key", "band"),
    "model.anchors: clstopk": ("model.anchors.type", "no anchors 'clstopk'", "cls_topk"),
    "model.anchors.cout: 3": ("model.anchors.cout", "unknown key", "count"),
    "model.anchors.count: many": ("model.anchors.count", "integer", None),
    "model.anchors.count: 4.5": ("model.anchors.count", "integer", None),
    "model.anchors.count: true": ("model.anchors.count", "integer", None),
    "model.anchors.count: 900": ("model.anchors", "900 is more than the tower's 144", None),
    "model.anchors: {count: 3, type: none}": ("model.anchors.count", "none takes no keys", None),
    "model.anchors: [1]": ("model.anchors", "expected a name or a mapping", None),
    "model.band.length: 5": ("model.band", "reaches layer 7, the language model has 6", None),
    "model.band.length: -1": ("model.band.length", "whole number >= 0", None),
    "model.band: {length: 0, every: 2}": ("model.band", "in one way", None),
    "model.band: {length: 0, start: early}": ("model.band.start", "whole number >= 0", None),
    "model.band: {length: 0, gaet: tanh}": ("model.band.gaet", "unknown key", "gate"),
    "model.band: {strat: 2, length: 2}": ("model.band.strat", "unknown key", "start"),
    "model.band: {length: false}": ("model.band.length", "whole number >= 0", None),
    "model.band: midle": ("model.band.place", "no band called 'midle'", "middle"),
    "model.band: [1, 9]": ("model.band", "layer 9 is outside", None),
    "model.band: {start: 1, every: 2}": ("model.band", "in one way", None),
    "model.band.gate: tanhh": ("model.band.gate", "found 'tanhh'", "tanh"),
    "model.connector: none": ("model.connector", "needs connector", None),
    "model.sharing: none": ("model.sharing", "a band needs sharing", None),
    "model: 3": ("model", "expected slots", None),
    "train: fast": ("train", "expected keys and values", None),
    "train.roles.visoin: full": ("train.roles.visoin", "unknown key", "vision"),
    "train.roles.vision: ful": ("train.roles.vision", "found 'ful'", "full"),
    "train.lr: 0": ("train.lr", "greater than 0", None),
    "train.questions: 99": ("train.questions", "99 is more than", None),
    "data.type: moon": ("data.type", "no data 'moon'", None),
    "data.world.objcts: 3": ("data.world.objcts", "unknown key", "objects"),
    "data.world.objects: [9, 3]": ("data.world", "must rise", None),
    "base.recipe: smal.yaml": ("base.recipe", "no file smal.yaml", "small.yaml"),
    "base.recipe: small.yaml": (None, "unknown key", None),
    "base.arm: main2": ("base.arm", "no arm 'main2'", "main"),
    "base.arm: main": ("base.arm", "wait for one another", None),
    "seeds: [0, 0]": ("seeds", "twice", None),
    "seeds: [a]": ("seeds", "whole numbers", None),
    "seed: 3": ("seed", "not both", None),
    "expect: {main: {acuracy: '>= 1'}}": ("expect.main.acuracy", "no metric", "accuracy"),
    "expect: {main: {accuracy: 'about 1'}}": ("expect.main.accuracy", "bound", None),
    "expect: {mian: {accuracy: 1}}": ("expect.mian", "no arm", "main"),
    "plugins: 3": ("plugins", "names of modules", None),
    "question: [a]": ("question", "a sentence", None),
    "arms: [a]": ("arms", "arms by name", None),
    "arms: {a b: {}}": (None, "letters, digits", None),
    "arms: {a: 3}": ("arms.a", "the keys that this arm changes", None),
    "arms: {a: {seeds: [1]}}": ("seeds", "one for the whole recipe", None),
    "arms: {a: {trian.lr: 1}}": ("trian", "unknown key", "train"),
    "arms: {a: {model.anchors.count: {match_flops_of: bb}}, b: {}}": (
        *("model.anchors.count", "no arm 'bb'", "b"),
    ),
    "arms: {a: {model.anchors.count: {match_flops_of: a}}}": (
        *("model.anchors.count", "wait for one another: a -> a", None),
    ),
    "arms: {a: {train.steps: {match_flops_of: b}}, b: {}}": (*("train.steps", "", None),),
    "arms: {a: {model.reducer: {match_flops_of: b}}, b: {}}": (
        *("model.reducer", "only a number of a slot", None),
    ),
    "matched: 3": ("matched", "expected keys and the arms they match, found 3", None),
    "arms: {a: {match_flops_of: b}, b: {}}": ("match_flops_of", "unknown key", None),
    "model.reducer: {match_flops_of: main}": ("model.reducer", "only a number of a slot", None),
}


@pytest.mark.parametrize("line", WRONG)
def test_one_problem_in_its_place(write, line):
    key, message, near = WRONG[line]
    problem = problems_of(study(write, line + "\n"))[0]
    assert problem.key == key or key is None
    assert message in problem.message
    assert problem.nearest == near or near is None
    if not line.startswith("base.recipe: small"):
        assert (problem.file, problem.line) == ("study.yaml", 2)


def test_all_problems_of_all_arms_at_once_and_each_once(write):
    path = study(
        write,
        "train.lrr: 1\n"
        "arms:\n"
        "  one: {model.bridge.typ: x}\n"
        "  two: {model.band.start: 6, model.prompt: sideways}\n"
        "  three: {}\n",
    )
    found = problems_of(path, "cost.batch=none")
    places = [(p.file, p.line, p.key) for p in found]
    assert places == [
        ("study.yaml", 2, "train.lrr"),
        ("command line", None, "cost.batch"),
        ("study.yaml", 4, "model.bridge.typ"),
        ("study.yaml", 5, "model.prompt.type"),
        ("study.yaml", 5, "model.band"),
    ]
    assert "(arm two)" in found[-1].message and "arm" not in found[0].message


def test_no_model(write):
    (problem,) = problems_of(write("a.yaml", "question: x\n"))
    assert problem.message == "missing key 'model'"


def test_unknown_arm_is_named(write):
    recipe = load_recipe("small.yaml")
    assert isinstance(recipe, Recipe)
    with pytest.raises(UserError, match="did you mean: main"):
        recipe.arm("mainn")
    (problem,) = problems_of("small.yaml", "arms.x.train.lr=1")
    assert problem.message == "there is no arm 'x'"


def test_differences():
    a = {"model": {"bridge": "none", "band": {"type": "attend", "layers": [1]}}, "n": 1}
    b = {
        "model": {"bridge": {"type": "mlp", "x": 1}, "band": {"type": "attend", "layers": [2]}},
        "n": 1,
    }
    assert differences([a, b]) == {"model.bridge": ["none", "mlp"], "model.band.layers": [[1], [2]]}


@pytest.mark.parametrize(
    "band", ["model.band.length=0", "model.band={length: 0}", "model.band={start: 9, length: 0}"]
)
def test_a_band_of_length_0_is_none(write, band):
    write("small.yaml", Path("small.yaml").read_text())
    arm = load_recipe("small.yaml", [band]).arms["main"]
    assert arm.spec.band == () and arm.spec.bridge is None and arm.plain["model"]["band"] == "none"
    assert arm.hash == load_recipe("small.yaml", ["model.band=none"]).arms["main"].hash
    again = load_recipe("small.yaml", [band, "model.band.length=2", "model.band.start=2"])
    assert again.arms["main"].hash == load_recipe("small.yaml").arms["main"].hash


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (["train.epochs=2"], 2 * 7),  # of 112 images, 16 a batch
        (["train.epochs=2", "train.accumulate=4"], round(14 / 4)),
        (["train.epochs=1", "trainer.devices=2"], 3),
        (["train.epochs=0.5", "train.images=100"], 1),
    ],
)
def test_epochs_are_steps_of_whole_batches(write, overrides, steps):
    write("small.yaml", Path("small.yaml").read_text())
    arm = load_recipe("small.yaml", ["data.world.train=112", *overrides]).arms["main"]
    assert arm.train.steps == steps
    plain = [one for one in overrides if "epochs" not in one]
    same = load_recipe("small.yaml", ["data.world.train=112", f"train.steps={steps}", *plain])
    assert same.arms["main"].hash == arm.hash


def test_rows_that_hold_no_word_beside_the_image_are_refused(write):
    write("small.yaml", Path("small.yaml").read_text())
    with pytest.raises(UserError, match="9 leaves no room beside the 9 rows of an image"):
        load_recipe("small.yaml", ["train.max_tokens=9"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.prompt.template=chat", "model.prompt.template: chat needs a tokenizer"),
        ("model.prompt.template=vicuna", "model.prompt.template: vicuna needs a tokenizer"),
        ("data.square=processor", "data.square: processor is that of a tower with a path"),
        (
            "data={type: stream, stream: {train: http://a/a.tar, test: http://a/b.tar}}",
            "data.type: stream is text of any kind and needs a tokenizer",
        ),
    ],
)
def test_what_a_fit_would_stumble_over_is_told_before_it(write, override, message):
    write("small.yaml", Path("small.yaml").read_text())
    with pytest.raises(UserError, match=message):
        load_recipe("small.yaml", [override])


def test_a_split_val_that_is_not_there_is_told_with_what_to_do(write):
    text = Path("small.yaml").read_text()
    stream = "data: {type: stream, stream: {train: http://a/a.tar, test: http://a/b.tar}}\n"
    write("streamed.yaml", text + "evaluate:\n  split: val\n" + stream)
    with pytest.raises(UserError) as caught:
        load_recipe("streamed.yaml")
    told = next(p for p in caught.value.problems if p.key == "evaluate.split")
    assert told.message == (
        "data.stream has no split 'val': give data.stream.val, the addresses of its tars"
    )
    assert told.line == text.count("\n") + 2
    assert load_recipe("small.yaml", ["evaluate.split=val"]).arms["main"].evaluate.split == "val"


def test_folders_that_are_no_models_are_told_together_with_file_and_line(write):
    text = Path("small.yaml").read_text()
    text = text.replace("vision: tiny", "vision: {type: hf, path: ./none}")
    write("two.yaml", text.replace("language: tiny", "language: {type: hf, path: ./nada}"))
    with pytest.raises(UserError) as caught:
        load_recipe("two.yaml")
    told = [problem.render() for problem in caught.value.problems]
    assert told == [
        "two.yaml:3: model.vision.path: ./none is not a folder with a config.json",
        "two.yaml:4: model.language.path: ./nada is not a folder with a config.json",
    ]
