"""Sweep files that are wrong: every problem at once, in its place, before anything runs."""

import pytest

from eramv_lab.errors import InfeasibleError, UserError
from eramv_lab.sweep.load import load_sweep

SOUND = "search.model.anchors.count: {from: 0, to: 20}\n"
"""Line 2 of every file; the wrong one is line 3."""

WRONG = {
    # the line: key, part of the message, nearest
    "trails: 5": ("trails", "unknown key", "trials"),
    "trials: 0": ("trials", "greater than", None),
    "trials: many": ("trials", "integer", None),
    "finalists: 1.5": ("finalists", "integer", None),
    "storage: 3": ("storage", "string", None),
    "storage: somewhere": ("storage", "Could not parse", None),
    "storage: oracel://a/b": ("storage", "oracel", None),
    "heartbeat: {evry: 3}": ("heartbeat.evry", "unknown key", "every"),
    "heartbeat: {every: 30, grace: 30}": ("heartbeat.grace", "more than heartbeat.every", None),
    "goal: acuracy": ("goal", "the row has no 'acuracy'", "accuracy"),
    "goal: {accuracy: up}": ("goal", "expected max or min, found 'up'", None),
    "goal: [accuracy, loss, kv_mib]": ("goal", "one column of the row or two", None),
    "goal: [accuracy, accuracy]": ("goal", "one column of the row or two", None),
    "goal: 3": ("goal", "one column of the row or two", None),
    "goal: [accuracy, prefill_tflops]\npruner: median": ("pruner", "two goals cannot prune", None),
    "goal: latency_ms\npruner: median": ("pruner", "only accuracy and loss are known", None),
    "train.validate_every: 0\npruner: median": ("pruner", "train.validate_every is 0", None),
    "budget: 3": ("budget", "what is bounded and by how much", None),
    "budget.prefil: 3": ("budget.prefil", "unknown key", "prefill"),
    "budget.prefill: -1": ("budget.prefill", "a number above 0", None),
    "budget.prefill: true": ("budget.prefill", "a number above 0", None),
    "budget.prefill: a lot": ("budget.prefill", "a number above 0", None),
    "budget.prefill: {share: 0, of: all}": ("budget.prefill.share", "greater than 0", None),
    "budget.prefill: {share: 0.5}": ("budget.prefill", "missing key 'of'", None),
    "budget.prefill: {shrae: 0.5, of: all}": ("budget.prefill.shrae", "unknown key", "share"),
    "budget.prefill: {share: 0.5, of: al}": ("budget.prefill.of", "no arm and no recipe", "all"),
    "budget.prefill: {share: 0.5, of: small.yml}": ("budget.prefill.of", "no recipe", None),
    "arms.bad.model.bridge: mpl\nbudget.prefill: {share: 1, of: bad}": (
        *("budget.prefill.of", "bad is not sound", None),
    ),
    "sampler: gpp": ("sampler", "no sampler 'gpp'", "gp"),
    "sampler: 3": ("sampler", "expected a name", None),
    "sampler: {type: gp, n_startup: 3}": ("sampler.n_startup", "no argument", "n_startup_trials"),
    "sampler: {type: gp, seed: 3}": ("sampler.seed", "no argument", None),
    "sampler: {type: tpe, gamma: 3}": ("sampler.gamma", "no argument 'gamma' that a file", None),
    "sampler: {type: tpe, n_startup_trials: x}": ("sampler.n_startup_trials", "integer", None),
    "sampler: {type: tpe, multivariate: false, group: true}": ("sampler", "multivariate", None),
    "sampler: {n_startup_trials: 3}": ("sampler.n_startup_trials", "auto takes no", None),
    "sampler: {type: grid, seed: 3}": ("sampler.seed", "grid takes no arguments", None),
    "sampler: grid\nsearch.train.weight_decay: {from: 0.0, to: 1.0}": (
        "sampler",
        "a grid needs",
        None,
    ),
    "pruner: medain": ("pruner", "no pruner 'medain'", "median"),
    "pruner: {type: percentile, percentile: 200.0}": ("pruner", "Percentile", None),
    "pruner: {type: percentile}": ("pruner", "percentile", None),
    "pruner: {type: median, n_warmup_steps: soon}": ("pruner.n_warmup_steps", "integer", None),
    "search.model.bridge: mlp": ("search.model.bridge", "expected [choices]", None),
    "search.model.bridge: []": ("search.model.bridge", "no choices", None),
    "search.model.bridge: [mlp, mlp]": ("search.model.bridge", "there twice", None),
    "search.model.bridge: [mlp, mpl]": ("search.model.bridge", "no bridge 'mpl'", "mlp"),
    "search.model.bridge: [{type: mlp, wdth: 3}]": ("search.model.bridge", "unknown key", None),
    "search.model.brigde: [mlp]": ("search.model.brigde", "unknown key", "bridge"),
    "search.model.bandd.start: {from: 0, to: 1}": (
        "search.model.bandd.start",
        "unknown key",
        "band",
    ),
    "search.model.band.strat: {from: 0, to: 1}": (
        "search.model.band.strat",
        "unknown key",
        "start",
    ),
    "search.modl.bridge: [mlp]": ("search.modl.bridge", "keys of model, train", "model"),
    "search.data.world.noise: [1.0, 8.0]": ("search.data.world.noise", "keys of model", None),
    "search.base.seed: [0, 1]": ("search.base.seed", "keys of model, train", None),
    "search.seed: [0, 1]": ("search.seed", "keys of model, train", None),
    "search.train: [fast]": ("search.train", "keys of model, train", None),
    "search.train.lrr: [1e-3]": ("search.train.lrr", "unknown key", "lr"),
    "search.train.lr: [1e-3, fast]": ("search.train.lr", "number", None),
    "search.train.lr: {from: 0.0, to: 1.0}": ("search.train.lr", "greater than 0", None),
    "search.train.images: {from: 1, to: 9999}": ("search.train.images", "9999 is more than", None),
    "search.train.warmup: {from: 5, to: 3}": ("search.train.warmup", "from 5 to 3 is empty", None),
    "search.train.warmup: {from: 0, to: 3, log: true}": ("search.train.warmup", "above 0", None),
    "search.train.warmup: {from: 1, to: 9, step: 2, log: true}": (
        "search.train.warmup",
        "no step",
        None,
    ),
    "search.train.warmup: {from: 1, to: 9, step: 0}": ("search.train.warmup.step", "greater", None),
    "search.train.clip: {from: 0.1, to: 9, step: 1e-9}": ("search.train.clip", "widen", None),
    "search.train.warmup: {from: 1, too: 9}": ("search.train.warmup.too", "unknown key", "to"),
    "search.train.warmup: {to: 9}": ("search.train.warmup", "missing key 'from'", None),
    "search.train.warmup: {from: 1}": ("search.train.warmup", "missing key 'to'", None),
    "search.train.warmup: {from: a, to: 9}": ("search.train.warmup.from", "number", None),
    "search.train.warmup: {from: 0.5, to: 3.5}": ("search.train.warmup", "integer", None),
    "search.train.warmup: {from: 1, to: 9, take: largest}": (
        "search.train.warmup",
        "largest is",
        None,
    ),
    "search.model.band.start: {from: 1, to: 3, take: largest}": (
        *("search.model.band.start", "largest is for a number that changes", None),
    ),
    "search.model.band.start: {from: 1, to: 3, take: most}": (
        *("search.model.band.start.take", "'any' or 'largest'", None),
    ),
    "search.model.band.start: {from: 7, to: 9}": ("search", "no setting of it is a model", None),
    "begin_with: 3": ("begin_with", "names of arms", None),
    "begin_with: papr": ("begin_with", "names of arms", None),
    "begin_with: [papr]": ("begin_with.papr", "an arm's name or changes", "paper"),
    "begin_with: {x: papr}": ("begin_with.x", "an arm's name or changes", "paper"),
    "begin_with: {x: 3}": ("begin_with.x", "an arm's name or changes", None),
    "begin_with: {a b: {}}": ("begin_with.a b", "letters, digits", None),
    "begin_with: {x: {model.brigde: mlp}}": ("begin_with.x.model.brigde", "unknown key", "bridge"),
    "begin_with: {x: {model.band.start: largest}}": (
        "begin_with.x.model.band.start",
        "largest",
        None,
    ),
    "begin_with: {x: {model.anchors.count: 900}}": (
        "begin_with.x.model.anchors",
        "more than",
        None,
    ),
    "begin_with: {x: {data.world.noise: 1.0}}": ("begin_with.x.data", "share one data", None),
    "begin_with: {x: {base.arm: paper}}": ("begin_with.x.base", "share one base", None),
    "trials: 1\nbegin_with: [paper, all]": ("trials", "fewer than the 2 settings", None),
    "base.arm: paper": ("base.arm", "a search starts from a base", None),
    "seeds: [0, 0]": ("seeds", "twice", None),
    "train.lrr: 3": ("train.lrr", "unknown key", "lr"),
    "launcher: slrum": ("launcher.type", "no launcher 'slrum'", "slurm"),
}


def problems_of(path, *overrides):
    with pytest.raises(UserError) as caught:
        load_sweep(path, overrides)
    return caught.value.problems


@pytest.mark.parametrize("lines", WRONG)
def test_one_problem_in_its_place(write, lines):
    key, message, near = WRONG[lines]
    problem = problems_of(write(SOUND + lines + "\n"))[0]
    assert problem.key == key and message in problem.message
    assert problem.nearest == near or near is None
    assert problem.file == "search.yaml"
    assert problem.line in (3, 4) or key in ("trials", "search")


def test_all_problems_at_once_and_each_once(write):
    path = write(
        """\
        goal: acuracy
        budget: {prefil: 3, kv: {share: 1, of: nobody}}
        search: {model.brigde: [mlp], train.lr: [1e-3, fast], train.warmup: {from: 3, to: 1}}
        begin_with: {paper: papr}
        sampler: {type: gp, n_startup: 3}
        pruner: medain
        storage: somewhere
        train.lrr: 1
        """
    )
    found = problems_of(path, "trials=none", "search.model.bridge=[mlp, mpl]")
    places = {(p.file, p.line, p.key) for p in found}
    assert places == {
        ("search.yaml", 2, "goal"),
        ("search.yaml", 3, "budget.prefil"),
        ("search.yaml", 3, "budget.kv.of"),
        ("search.yaml", 4, "search.model.brigde"),
        ("search.yaml", 4, "search.train.lr"),
        ("search.yaml", 4, "search.train.warmup"),
        ("search.yaml", 5, "begin_with.paper"),
        ("search.yaml", 6, "sampler.n_startup"),
        ("search.yaml", 7, "pruner"),
        ("search.yaml", 8, "storage"),
        ("search.yaml", 9, "train.lrr"),
        ("command line", None, "trials"),
        ("command line", None, "search.model.bridge"),
    }
    assert len(found) == len(places)


def test_a_space_without_a_model_is_told_with_the_reason(write):
    path = write(SOUND + "search.model.band.start: {from: 7, to: 9}\n")
    told = [(p.line, p.key, p.message) for p in problems_of(path)]
    reaches = "start 7 + length 2 reaches layer 9, the language model has 6"
    assert told == [
        (2, "search", "no setting of it is a model"),
        (3, "search.model.band", reaches),
    ]


def test_a_recipe_is_no_sweep_and_a_sweep_no_recipe(write):
    (problem,) = problems_of("small.yaml")
    assert "`fit` runs a recipe" in problem.message
    from eramv_lab.recipe.resolve import load_recipe

    with pytest.raises(UserError, match=r"search.yaml:2: search: .*`sweep`"):
        load_recipe(write(SOUND))


@pytest.mark.parametrize("text", ["search: none", "search: {}", "search: 3", "search:"])
def test_nothing_to_search(write, text):
    (problem,) = problems_of(write(text + "\n"))
    assert problem.key == "search"


def test_a_budget_that_nothing_keeps_is_told_with_what_is_needed(write):
    with pytest.raises(InfeasibleError) as caught:
        load_sweep(write(SOUND + "budget: {prefill: {share: 0.2, of: all}, kv: 100}\n"))
    assert caught.value.exit_code == 3
    told = str(caught.value)
    assert "budget.prefill is 8.6761e+07 " in told and "(0.2 of all), the cheapest setting" in told
    assert "budget.kv is 100 (100), the cheapest" in told and "needs 2" in told
