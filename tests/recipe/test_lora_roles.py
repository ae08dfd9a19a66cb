"""`train.roles` with LoRA: written, merged and read back; what cannot be is said before a run."""

import pytest
import yaml

from eramv_lab.errors import UserError
from eramv_lab.recipe.describe import describe
from eramv_lab.recipe.lora import adapted, differences, layers_of, settled
from eramv_lab.recipe.resolve import load_recipe

LORA = "train.roles.language={lora: {rank: 4, layers: band, targets: [q, down]}}"


def arm(*overrides):
    return load_recipe("small.yaml", overrides).arms["main"]


def lora_of(found, role="language"):
    return adapted(found.train.roles)[role]


def test_it_is_typed_and_reads_back_to_the_same(write):
    first = arm(LORA)
    lora = lora_of(first)
    assert (lora.rank, lora.alpha, lora.targets, lora.lr) == (4, 16.0, ("q", "down"), None)
    assert first.plain["train"]["roles"]["language"]["lora"]["layers"] == "band"
    write(
        "again.yaml", yaml.safe_dump(load_recipe("small.yaml", [LORA]).to_plain(), sort_keys=False)
    )
    again = load_recipe("again.yaml").arms["main"]
    assert again.plain == first.plain and again.hash == first.hash
    assert arm().hash == arm(LORA, "train.roles.language=full").hash != first.hash


def test_arms_go_from_full_to_lora_and_back_and_change_single_keys(write):
    write(
        "study.yaml",
        """\
        extends: small.yaml
        train: {roles: {language: {lora: {rank: 4, targets: [v]}}}}
        arms:
          lora: {}
          wider: {train.roles.language.lora.rank: 16}
          full: {train.roles.language: full}
          still: {train.roles.language: frozen, train.roles.vision.lora: {targets: [up]}}
        """,
    )
    arms = load_recipe("study.yaml").arms
    assert lora_of(arms["lora"]).rank == 4
    wider = lora_of(arms["wider"])
    assert (wider.rank, wider.targets) == (16, ("v",))
    assert arms["full"].train.roles.language == "full"
    assert lora_of(arms["still"], "vision").targets == ("up",)


@pytest.mark.parametrize(
    ("override", "key", "message", "near"),
    [
        ("train.roles.language=lora", "language", "found 'lora'", "{lora: ...}"),
        ("train.roles.language={}", "language", "missing key 'lora'", None),
        ("train.roles.language={lroa: {}}", "language.lroa", "unknown key", "lora"),
        ("train.roles.language.lora=8", "language.lora", "expected keys and values", None),
        ("train.roles.language.lora.rnak=8", "language.lora.rnak", "unknown key", "rank"),
        ("train.roles.language.lora.rank=0", "language.lora.rank", "greater than", None),
        ("train.roles.language.lora.dropout=1", "language.lora.dropout", "less than 1", None),
        ("train.roles.language.lora.bits=8", "language.lora.bits", "found 8", None),
        ("train.roles.language.lora.layers=bnad", "language.lora.layers", "found 'bnad'", "band"),
        ("train.roles.language.lora.targets=[q, z]", "language.lora.targets.1", "found 'z'", None),
        ("train.roles.language.lora.targets=[]", "language.lora.targets", "no matrix", None),
        ("train.roles.language.lora.targets=[q, q]", "language.lora.targets", "twice", None),
        ("train.roles.language.lora.layers=[]", "language.lora.layers", "no layer", None),
        ("train.roles.language.lora.layers=[1, 1]", "language.lora.layers", "twice", None),
        ("train.roles.language.lora.layers=[1, 9]", "language.lora.layers", "no layer 9", None),
        ("train.roles.bridge={lora: {}}", "bridge", "found {'lora'", None),
        ("train.roles.vision.lora.bits=4", "vision.lora.bits", "only the language", None),
        ("train.roles.vision.lora.layers=band", "vision.lora.layers", "has no band", None),
        ("train.roles.vision.lora.targets=[q, o]", "vision.lora.targets", "all three", None),
        ("train.roles.vision.lora.targets=[gate]", "vision.lora.targets", "no matrix 'gate'", None),
    ],
)  # fmt: skip
def test_every_mistake_has_its_key(write, override, key, message, near):
    with pytest.raises(UserError) as caught:
        arm(override)
    problem = next(p for p in caught.value.problems if p.key == f"train.roles.{key}")
    assert message in problem.message and problem.nearest == near


@pytest.mark.parametrize(
    ("band", "layers", "message"),
    [("none", "band", "there is no band"), ("all", "outside", "none is outside")],
)
def test_a_pattern_that_matches_nothing(write, band, layers, message):
    with pytest.raises(UserError, match=message):
        arm(f"model.band={band}", f"train.roles.language.lora.layers={layers}")


def test_two_roles_have_one_dropout_and_four_bits_are_not_sharded(write):
    with pytest.raises(UserError, match="one dropout"):
        arm("train.roles.vision.lora.dropout=0.1", "train.roles.language={lora: {}}")
    with pytest.raises(UserError, match="not sharded"):
        arm("train.roles.language.lora.bits=4", "trainer.strategy=fsdp2")


def test_layers_by_name_and_settled(write):
    found = arm(LORA)
    spec, roles = found.spec, found.train.roles
    assert layers_of(lora_of(found), "language", spec) == (2, 3)
    assert sorted(differences(roles, spec)) == [
        ("language", layer, name) for layer in (2, 3) for name in ("down", "q")
    ]
    fixed = settled(roles, spec)
    assert fixed["language"]["lora"]["layers"] == (2, 3) and fixed["vision"] == "frozen"
    assert differences(fixed, arm("model.band=none").spec) == differences(roles, spec)
    outside = lora_of(arm(LORA, "train.roles.language.lora.layers=outside"))
    assert layers_of(outside, "language", spec) == (0, 1, 4, 5)


def test_describe_shows_the_keys():
    page = "\n".join(describe("train"))
    assert "roles.language: frozen | full | {lora: ...} = full" in page
    assert "roles.language.lora.layers: all | band | outside | list of whole number = all" in page
