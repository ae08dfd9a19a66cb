"""How good the search is, on a grid of which every setting was trained once (band_grid.csv)."""

import pytest
from sweep.replay import RECIPE, ROOT, place_of, read_table, replay

from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.pricing import costs_of_arm

SEEDS = 5


@pytest.fixture
def sweep(monkeypatch):
    monkeypatch.chdir(ROOT)
    return load_sweep(RECIPE)


def test_the_table_is_the_grid(sweep):
    table = read_table()
    assert {*map(place_of, sweep.space.points())} == set(table)
    costs = read_table(goal="prefill_tflops")
    for values in list(sweep.space.points())[::20]:
        priced = costs_of_arm(sweep.arm("one", values))["prefill"] / 1e12
        assert costs[place_of(values)] == pytest.approx(priced)
    assert all(cost * 1e12 <= sweep.limits[0].value for cost in costs.values())


@pytest.mark.slow
def test_a_third_of_the_grid_finds_its_best(sweep):
    table = read_table()
    found = {name: replay(name, sweep, table, SEEDS) for name in ("auto", "tpe", "random", "drawn")}
    told = "\n".join(map(str, found.values()))
    print(told)
    assert found["auto"].reached >= 0.98, told
