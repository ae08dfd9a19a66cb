"""Spaces: every point is feasible, none that is feasible is missing, and back again."""

import dataclasses
import functools
import itertools
import random
import textwrap

import pytest

from eramv_lab.sweep.domains import Choices
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.pricing import Pricer, costs_of_arm
from tests.sweep.conftest import SMALL

SPACES = {
    "choices and ranges": """
        budget: {prefill: {share: 0.5, of: all}}
        search:
          model.bridge: [none, {type: low_rank, rank: 4}]
          model.band.length: {from: 0, to: 6}
          model.band.start: {from: 0, to: 5}
          model.anchors.count: {from: 0, to: 143, step: 13}
    """,
    "strides": """
        budget: none
        search:
          model.band.stride: {from: 1, to: 5}
          model.band.length: {from: 0, to: 4}
          model.band.start: {from: 0, to: 5}
    """,
    "larger is cheaper": """
        model: {anchors: all, band: none, reducer: fastv}
        budget: {prefill: {share: 0.8, of: all}}
        search:
          model.reducer.layer: {from: 0, to: 5}
          model.reducer.ratio: {from: 0.0, to: 1.0, step: 0.125}
    """,
    "later is dearer": """
        model: {anchors: all, band: none, reducer: {type: fastv}}
        budget: {prefill: {share: 0.8, of: all}}
        search:
          model.reducer.keep: {from: 0, to: 144, step: 12}
          model.reducer.layer: {from: 0, to: 5}
    """,
    "more kept than there is": """
        model: {band: none, reducer: {type: drop, layer: 2, keep: 1}}
        budget: {prefill: {share: 0.8, of: all}}
        search:
          model.reducer.keep: {from: 0, to: 40, step: 4}
          model.anchors.count: {from: 0, to: 40, step: 4}
    """,
    "kept, counted and placed": """
        model: {reducer: {type: drop, layer: 2, keep: 1}}
        budget: {prefill: {share: 0.95, of: all}}
        search:
          model.reducer.keep: {from: 2, to: 26, step: 5}
          model.anchors.count: {from: 7, to: 84, step: 7}
          model.band.start: {from: 3, to: 8}
    """,
    "the largest, of which enough are kept": """
        model: {reducer: {type: drop, layer: 2, keep: 1}}
        budget: {prefill: {share: 1.15, of: all}}
        search:
          model.anchors.count: {from: 6, to: 193, take: largest}
          model.reducer.keep: {from: 4, to: 15, step: 5}
    """,
    "holes": """
        budget: {prefill: {share: 0.5, of: all}}
        search:
          model.anchors.type: [pool, cls_topk]
          model.anchors.count: {from: 2, to: 40}
          model.band.length: {from: 0, to: 2}
    """,
    "holes at both ends": """
        model: {anchors: {type: pool, cls: true}}
        budget: {prefill: {share: 0.5, of: all}}
        search:
          model.band.start: {from: 0, to: 5}
          model.anchors.count: {from: 5, to: 43}
    """,
    "holes beside strides": """
        budget: {kv: {share: 1.1, of: all}}
        search:
          model.band.stride: {from: 1, to: 2}
          model.anchors.type: [pool]
          model.anchors.count: {from: 6, to: 50}
          model.band.length: {from: 1, to: 4}
    """,
    "the largest that fits": """
        budget: {prefill: {share: 0.5, of: all}}
        search:
          model.anchors.count: {from: 0, to: 143, step: 3, take: largest}
          model.bridge: [none, mlp]
          model.band.length: {from: 0, to: 6}
    """,
    "training": """
        budget: {training: {share: 0.5, of: all}}
        search:
          model.anchors.count: {from: 0, to: 144, step: 16}
          train.steps: {from: 0, to: 40, step: 4}
          train.weight_decay: [0.0, 0.1]
    """,
    "images and batches": """
        budget: {training: {share: 0.5, of: all}}
        search:
          train.images: {from: 1, to: 32, log: true}
          train.accumulate: {from: 1, to: 4}
    """,
    "parameters": """
        model: {bridge: {type: low_rank, rank: 4}}
        budget: {parameters: 850000, prefill: {share: 0.7, of: all}}
        search:
          model.band.length: {from: 0, to: 6}
          model.bridge.rank: {from: 1, to: 64, log: true}
    """,
    "cache": """
        budget: {kv: {share: 0.5, of: all}}
        search:
          model.band.length: {from: 0, to: 4}
          model.anchors.count: {from: 0, to: 144, step: 9}
    """,
}
CONTINUOUS = {
    "fractions": """
        model: {anchors: all, band: none, reducer: fastv}
        budget: {prefill: {share: 0.8, of: all}}
        search:
          model.reducer.ratio: {from: 0.0, to: 1.0}
          train.lr: {from: 1e-4, to: 1e-2, log: true}
          train.weight_decay: {from: 0.0, to: 0.1}
          train.warmup: {from: 1, to: 100, log: true}
          train.schedule: [cosine, linear]
    """,
}
EVERY = SPACES | CONTINUOUS


def points_of(space, count, seed=0):
    """Points at random, and the corners of the cube."""
    dice = random.Random(seed)
    kinds = {key: space.domains[key] for key in space.coordinates}
    sizes = {k: len(d.values) for k, d in kinds.items() if isinstance(d, Choices)}
    for _ in range(count):
        yield {key: dice.randrange(sizes[key]) if key in sizes else dice.random() for key in kinds}
    ends = [range(sizes[key]) if key in sizes else (0.0, 1.0) for key in kinds]
    for corner in itertools.islice(itertools.product(*ends), count):
        yield dict(zip(kinds, corner, strict=True))


def brute(sweep):
    """Every combination of values that is a model within the budget."""
    pricer = Pricer(sweep.document, sweep.limits)
    listed = [d.values if isinstance(d, Choices) else d.values() for d in sweep.domains.values()]
    found = []
    for values in itertools.product(*listed):
        setting = dict(zip(sweep.domains, values, strict=True))
        if pricer.fits({k: v for k, v in setting.items() if k in sweep.space.bound}):
            found.append(setting)
    return found


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """The sweep of a space, read once for all tests."""

    @functools.cache
    def of(name):
        folder = tmp_path_factory.mktemp("space")
        (folder / "small.yaml").write_text(SMALL)
        text = "extends: small.yaml\n" + textwrap.dedent(EVERY[name])
        (folder / "search.yaml").write_text(text)
        return load_sweep(folder / "search.yaml")

    return of


@pytest.fixture(scope="module")
def possible(read):
    """What `brute` finds in a space, looked for once."""
    return functools.cache(lambda name: brute(read(name)))


def frozen(settings):
    return sorted(map(repr, (sorted(one.items()) for one in settings)))


@pytest.mark.parametrize("name", EVERY)
def test_every_point_is_feasible_and_reads_back(read, name):
    sweep = read(name)
    space, seen = sweep.space, set()
    for point in points_of(space, 25):
        values = space.decode(point)
        assert list(values) == space.keys and space.holds(values)
        again = space.decode(space.encode(values))
        assert {
            k: pytest.approx(v) if isinstance(v, float) else v for k, v in again.items()
        } == values
        if repr(values) not in seen:
            seen.add(repr(values))
            costs = costs_of_arm(sweep.arm("point", values))
            assert all(costs[limit.name] <= limit.value for limit in sweep.limits)
    assert len(seen) > 2


@pytest.mark.parametrize("name", SPACES)
def test_points_are_what_is_found_by_looking_at_all(read, possible, name):
    sweep = read(name)
    space, wanted = sweep.space, possible(name)
    largest = [k for k, d in sweep.domains.items() if getattr(d, "largest", False)]
    if largest:
        rest = [k for k in sweep.domains if k not in largest]
        by_rest = {repr([one[k] for k in rest]): one for one in wanted}  # ascending: the last one
        wanted = list(by_rest.values())
    assert frozen(space.points()) == frozen(wanted)
    assert space.count() == len(wanted)
    decoded = {repr(sorted(space.decode(space.encode(one)).items())) for one in wanted}
    assert decoded == set(frozen(wanted))


@pytest.mark.parametrize("name", [name for name in SPACES if "largest" not in name])
def test_options_are_what_leaves_something_possible(read, possible, name):
    space, wanted = read(name).space, possible(name)
    keys = [key for key in space.keys if key in space.bound]
    for depth, key in enumerate(keys):
        left = {}
        for one in wanted:
            left.setdefault(repr([one[k] for k in keys[:depth]]), (one, []))[1].append(one[key])
        for one, values in left.values():
            options = space.options(key, {k: one[k] for k in keys[:depth]})
            assert [repr(v) for v in options] == list(dict.fromkeys(map(repr, values)))


def test_what_is_the_same_in_effect_has_one_identity(read):
    sweep = read("choices and ranges")
    none = {"model.bridge": "mlp", "model.band.length": 0, "model.anchors.count": 11}
    first, second = ({**none, "model.band.start": start} for start in (0, 5))
    other = first | {"model.bridge": "none"}
    assert len({*map(sweep.space.identity, (first, second, other))}) == 1
    band = first | {"model.band.length": 1}
    assert sweep.space.identity(band) != sweep.space.identity(first)
    training = read("images and batches")
    twice = [{"train.images": i, "train.accumulate": a} for i, a in ((2, 4), (4, 2))]
    assert len({*map(training.space.identity, twice)}) == 2


def test_a_whole_range_by_its_logarithm_is_one(read):
    space = read("fractions").space
    middle = {key: 0.5 if key != "train.schedule" else 0 for key in space.coordinates}
    values = space.decode(middle)
    assert values["train.warmup"] == 10 and values["train.lr"] == pytest.approx(1e-3)
    assert space.count() is None and not space.countable


def test_costs_that_rise_and_fall_are_never_passed(read):
    sweep = read("cache")
    space = sweep.space
    fits = space.fits

    def hollow(values):  # the middle of the range is dear, its ends are not
        return fits(values) and not 30 < values["model.anchors.count"] < 60

    space = dataclasses.replace(space, fits=hollow)
    for point in points_of(space, 40):
        assert hollow(space.decode(point))
    assert all(map(hollow, space.points()))
