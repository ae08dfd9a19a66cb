"""Domains: what is written, the values in it, and places among them."""

import pytest

from eramv_lab.sweep.domains import Choices, Range, parse_domain, word
from eramv_lab.sweep.load import load_sweep


def parsed(value):
    problems = []
    domain = parse_domain("model.x", value, problems)
    assert not problems
    return domain


def test_choices_are_words():
    choices = parsed(["mlp", "none", 3, 0.5, True, {"type": "low_rank", "rank": 4}, [1, 2]])
    assert isinstance(choices, Choices)
    assert choices.words == (
        *("mlp", "none", "3", "0.5", "true", "{type: low_rank, rank: 4}", "[1, 2]"),
    )
    assert word("3") == "3" and choices.has("mlp") and not choices.has("ffn")


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ({"from": 2, "to": 5}, [2, 3, 4, 5]),
        ({"from": 0, "to": 5, "step": 2}, [0, 2, 4]),
        ({"from": 3, "to": 3}, [3]),
        ({"from": 0.0, "to": 0.3, "step": 0.1}, [0.0, 0.1, 0.2, 0.3]),
        ({"from": 0, "to": 1, "step": 0.25}, [0, 0.25, 0.5, 0.75, 1.0]),
    ],
)
def test_values_of_a_range(written, values):
    domain = parsed(written)
    assert isinstance(domain, Range) and list(domain.values()) == values and domain.listed
    assert all(map(domain.has, values)) and not domain.has(values[-1] + 1)
    assert not domain.has(values[0] + 0.01) and not domain.has("2") and not domain.has(True)
    for value in values:
        assert values[domain.index(domain.place(value, values), values)] == value


def test_fractions_by_their_logarithm():
    domain = parsed({"from": 1e-4, "to": 1e-2, "log": True})
    assert domain.at(0.5) == pytest.approx(1e-3) and domain.share(1e-3) == pytest.approx(0.5)
    values = domain.values()
    assert len(values) == 100 and values[0] == 1e-4 and values[-1] == pytest.approx(1e-2)
    assert domain.has(0.00123) and not domain.listed
    for low, high in ((3e-5, 0.07), (0.1, 0.7), (1e-9, 3.3)):
        domain = parsed({"from": low, "to": high, "log": True})
        assert all(map(domain.has, domain.values()))
        assert domain.at(1.0) == high and domain.at(0.0) == low


def test_whole_numbers_by_their_logarithm():
    domain = parsed({"from": 1, "to": 256, "log": True})
    values = domain.values()
    for value in values:
        assert values[domain.index(domain.place(value, values), values)] == value
    places = [values[domain.index(i / 8, values)] for i in range(9)]
    assert places == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    holes = [4, 9, 16, 25]
    assert [holes[domain.index(p, holes)] for p in (0.0, 0.5, 1.0)] == [4, 9, 25]


def test_whole_ends_of_a_number_that_may_be_a_fraction(write):
    text = """
        search:
          train.weight_decay: {from: 0, to: 1}
          train.final: {from: 0, to: 1, step: 1}
          train.warmup: {from: 0, to: 5}
    """
    domains = load_sweep(write(text)).domains
    assert [domains[f"train.{key}"].whole for key in ("weight_decay", "final", "warmup")] == [
        *(False, True, True),
    ]
