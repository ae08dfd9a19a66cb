"""Labels: short, told apart, and fit to name a folder."""

import pytest

from eramv_lab.recipe.resolve import NAME
from eramv_lab.sweep.domains import Choices
from eramv_lab.sweep.labels import folder_of, label_of, short_words
from eramv_lab.sweep.load import load_sweep

SPACE = """\
search:
  model.bridge: [none, mlp, {type: low_rank, rank: 4}, {type: low_rank, rank: 8}]
  model.band.length: {from: 0, to: 2}
  model.band.start: {from: 0, to: 2}
  model.anchors.count: {from: 0, to: 16, step: 8}
  model.anchors.cls: [true, false]
  train.lr: [5e-4, 1e-3]
  train.schedule: [cosine, linear]
"""


def label(sweep, **changes):
    given = {"model.bridge": "mlp", "model.band.length": 2, "model.band.start": 1}
    given |= {"model.anchors.count": 8, "model.anchors.cls": True}
    given |= {"train.lr": 5e-4, "train.schedule": "cosine"}
    values = given | {key.replace("__", "."): value for key, value in changes.items()}
    return label_of(sweep.arm("one", values).spec, values, sweep.domains)


def test_words(write):
    sweep = load_sweep(write(SPACE))
    assert label(sweep) == "s1 n2 a8 mlp cls lr0.0005 cosine"
    assert label(sweep, model__bridge="none") == "s1 n2 a8 no-bridge cls lr0.0005 cosine"
    gone = label(sweep, model__band__length=0, model__anchors__cls=False)
    assert gone == "n0 a8 no-cls lr0.0005 cosine"
    ranks = [label(sweep, model__bridge={"type": "low_rank", "rank": r}).split()[3] for r in (4, 8)]
    assert ranks == ["low_rank-4", "low_rank-8"]


def test_one_that_lies_outside_the_space(write):
    sweep = load_sweep(write(SPACE))
    spec = sweep.arm("one", {"model.band": [1, 3], "model.anchors": "none"}).spec
    assert label_of(spec, None, sweep.domains) == "b1-3 a0"


def test_what_differs_in_effect_has_another_label(write):
    sweep = load_sweep(write(SPACE))
    found = {}
    for values in sweep.space.points():
        said = label_of(sweep.pricer.look(_bound(sweep, values)).spec, values, sweep.domains)
        found.setdefault(said, set()).add(sweep.space.identity(values))
    assert len(found) > 100 and all(len(same) == 1 for same in found.values())
    folders = {*map(folder_of, found)}
    assert len(folders) == len(found) and all(map(NAME.fullmatch, folders))


def _bound(sweep, values):
    return {key: value for key, value in values.items() if key in sweep.space.bound}


def test_choices_that_begin_alike_are_numbered():
    long = [{"type": "a_long_name", "first": n} for n in (1, 2)]
    domain = Choices(("no", *long))
    assert short_words("model.x", domain) == ("no", "a_long_name#1", "a_long_name#2")


@pytest.mark.parametrize("said", ["", "ß", "a/b", "-x", "s1 n2 {a: b}", "x" * 99])
def test_a_folder_is_a_name_whatever_is_said(said):
    assert NAME.fullmatch(folder_of(said))
