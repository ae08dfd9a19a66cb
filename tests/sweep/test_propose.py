"""What is tried next: never twice, by the trials and a seed alone, learnt from all that counts."""

import optuna
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial

from eramv_lab.sweep.config import Named
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.propose import learnt_of, propose
from eramv_lab.sweep.samplers import MANY, chosen, make_pruner, make_sampler

SPACE = """\
budget: {prefill: {share: 0.5, of: all}}
search:
  model.bridge: [none, mlp]
  model.band.length: {from: 0, to: 2}
  model.band.start: {from: 0, to: 2}
  model.anchors.count: {from: 0, to: 16, step: 8}
"""


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def ask(sweep, learnt, seed=0, sampler="random", tried=None, trials=24, goals=None):
    """One proposal; what is learnt counts as tried."""
    tried = {sweep.space.identity(v) for v, _ in learnt} if tried is None else tried
    made = make_sampler(Named(type=sampler), trials, seed)
    return propose(learnt, tried, sweep.space, goals or sweep.goals, made, seed)


def score(values):
    """A made-up accuracy: best where the band is long and late."""
    return values["model.band.length"] + values["model.band.start"] / 10


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsga2"])
def test_no_setting_twice_until_the_space_is_used_up(write, sampler):
    sweep = load_sweep(write(SPACE))
    distinct = {*map(sweep.space.identity, sweep.space.points())}
    learnt = []
    for number in range(len(distinct)):
        values = ask(sweep, learnt, number, sampler)
        assert sweep.space.holds(values)
        learnt.append((values, [score(values)]))
    assert {sweep.space.identity(values) for values, _ in learnt} == distinct
    assert ask(sweep, learnt, 99, sampler) is None


def test_the_same_trials_and_seed_ask_the_same(write):
    sweep = load_sweep(write(SPACE))
    learnt = []
    for number in range(4):
        values = ask(sweep, learnt, number, "gp", trials=8)
        assert ask(sweep, list(learnt), number, "gp", trials=8) == values
        learnt.append((values, [score(values)]))
    assert len({repr(ask(sweep, learnt, seed)) for seed in range(20)}) > 3


def test_two_workers_in_turn_never_try_the_same(write):
    sweep = load_sweep(write(SPACE))
    done, running = [], []
    for number in range(16):  # each asks while the other's trial is running
        values = ask(sweep, [*done, *((v, None) for v in running)], number, "tpe")
        assert sweep.space.identity(values) not in {
            *(sweep.space.identity(v) for v, _ in done),
            *map(sweep.space.identity, running),
        }
        running.append(values)
        if len(running) == 2:
            first = running.pop(0)
            done.append((first, [score(first)]))


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
def test_it_learns(write, sampler):
    sweep = load_sweep(
        write(SPACE), ["search.model.band.start.to=4", "search.model.band.length.to=4"]
    )
    points = list(sweep.space.points())
    learnt = [(values, [score(values)]) for values in points[:: len(points) // 20]]
    asked = [ask(sweep, learnt, seed, sampler, tried=set()) for seed in range(5)]
    mean = sum(map(score, points)) / len(points)
    assert sorted(map(score, asked))[2] > mean + 1


def test_two_goals(write):
    sweep = load_sweep(write(SPACE), ["goal=[accuracy, prefill_tflops]"])
    assert [one.direction for one in sweep.goals] == ["maximize", "minimize"]
    learnt = []
    for number in range(6):
        values = ask(sweep, learnt, number, "auto", trials=8)
        learnt.append((values, [score(values), float(values["model.anchors.count"])]))
    assert len({sweep.space.identity(v) for v, _ in learnt}) == 6


def test_pruned_trials_teach_and_others_that_did_not_finish_do_not():
    kind = {"x": CategoricalDistribution([0, 1, 2, 3, 4])}

    def trial(x, state, value=None, steps=None):
        return create_trial(
            state=state,
            params={"x": x},
            distributions=kind,
            value=value,
            intermediate_values=steps or {},
        )

    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            trial(0, TrialState.COMPLETE, 0.5),
            trial(1, TrialState.FAIL),
            trial(2, TrialState.PRUNED),  # infeasible: it never reported
            trial(4, TrialState.COMPLETE, 0.9),  # outside the space
        ]
    )
    study.enqueue_trial({"x": 3})
    pruned = study.ask(kind)
    pruned.report(0.25, 10)
    study.tell(pruned, state=TrialState.PRUNED)
    study.enqueue_trial({"x": 1})
    study.ask(kind)
    found = learnt_of(study.trials, lambda t: None if t.params["x"] == 4 else dict(t.params))
    assert [(v["x"], list(told) if told else None) for v, told in found] == [
        *((0, [0.5]), (3, [0.25]), (1, None)),
    ]


def test_one_that_runs_and_does_not_fit_is_no_obstacle(write):
    sweep = load_sweep(write(SPACE))
    dear = {"model.bridge": "mlp", "model.band.length": 2, "model.band.start": 2}
    learnt = [(dear | {"model.anchors.count": 16}, None)]
    tight = load_sweep("search.yaml", ["budget.prefill.share=0.42"])
    assert not tight.space.holds(learnt[0][0]) and sweep.space.holds(learnt[0][0])
    assert tight.space.holds(ask(tight, learnt))


def test_a_space_without_end_never_repeats_itself(write):
    text = "search:\n  train.lr: {from: 1e-4, to: 1e-2, log: true}\n  train.clip: [none, 1.0]\n"
    sweep = load_sweep(write(text))
    learnt = []
    for number in range(12):
        learnt.append((ask(sweep, learnt, number, "tpe"), [0.0]))
    assert len({sweep.space.identity(v) for v, _ in learnt}) == 12


def test_samplers_and_pruners_by_name():
    auto = Named(type="auto")
    assert (chosen(auto, MANY), chosen(auto, MANY + 1)) == ("gp", "tpe")
    made = make_sampler(auto, 24, 5)
    assert type(made).__name__ == "GPSampler" and made._n_startup_trials == 6
    assert type(make_sampler(Named(type="grid"), 9, 0)).__name__ == "RandomSampler"
    assert type(make_pruner(Named(type="none"))).__name__ == "NopPruner"
    halving = make_pruner(Named(type="successive_halving", options={"reduction_factor": 2}))
    assert halving._reduction_factor == 2
