"""AcFormer, Perceiver, Qwen-VL's resampler, TokenPacker: each is its definition, read slowly."""

from math import cos, sin, sqrt
from typing import Any

import pytest
import torch
from laws.probes import build, perturb
from laws.settings import OWN_FINE
from torch import Tensor
from torch.nn import functional as F

from eramv_lab.slots.contracts import Anchors, Patches

GRID, WIDE = (4, 4), 16
IMAGES = torch.randn(2, 17, WIDE, generator=torch.Generator().manual_seed(3))
SEEN = Patches(states_NPV=IMAGES[:, 1:], grid=GRID, cls_NV=IMAGES[:, 0])
INDEX = torch.tensor([[-1, 2, 5, 11], [-1, 0, 1, 15]])
CHOSEN = Anchors(
    states_NAV=torch.stack([IMAGES[n][INDEX[n] + 1] for n in range(2)]), index_NA=INDEX
)


def connector(name: str, **options: Any) -> Any:
    module, _ = build(("connector", name), **options)
    perturb(module)
    return module.eval()


def weight(module: Any, name: str) -> Tensor:
    return dict(module.named_parameters())[name]


def norm(module: Any, name: str, row: Tensor, eps: float = 1e-5) -> Tensor:
    centred = row - row.mean()
    scaled = centred / (centred.square().mean() + eps).sqrt()
    return scaled * weight(module, f"{name}.weight") + weight(module, f"{name}.bias")


def linear(module: Any, name: str, row: Tensor) -> Tensor:
    bias = dict(module.named_parameters()).get(f"{name}.bias")
    return row @ weight(module, f"{name}.weight").T + (0 if bias is None else bias)


def read(
    module: Any, name: str, queries: list[Tensor], keys: list[Tensor], values: list[Tensor]
) -> list[Tensor]:
    """Attention row by row and head by head."""
    heads = module.get_submodule(name).heads
    q = [linear(module, f"{name}.q", row).chunk(heads) for row in queries]
    k = [linear(module, f"{name}.k", row).chunk(heads) for row in keys]
    v = [linear(module, f"{name}.v", row).chunk(heads) for row in values]
    found: list[Tensor] = []
    for query in q:
        parts: list[Tensor] = []
        for h in range(heads):
            scores = torch.stack([query[h] @ key[h] for key in k]) / sqrt(len(query[h]))
            shares = scores.exp() / scores.exp().sum()
            parts.append(sum(s * value[h] for s, value in zip(shares, v, strict=True)))  # type: ignore[arg-type]
        found.append(linear(module, f"{name}.out", torch.cat(parts)))
    return found


def layer(
    module: Any, name: str, rows: list[Tensor], image: list[Tensor], itself: bool
) -> list[Tensor]:
    """A resampler's layer: reading and feed-forward, each behind a norm and beside its input."""
    queries = [norm(module, f"{name}.norm_rows", row) for row in rows]
    keys = [norm(module, f"{name}.norm_image", row) for row in image]
    keys += queries * itself
    found = read(module, f"{name}.read", queries, keys, keys)
    rows = [row + one for row, one in zip(rows, found, strict=True)]
    for i, row in enumerate(rows):
        inner = F.gelu(linear(module, f"{name}.up", norm(module, f"{name}.norm_ffn", row)))
        rows[i] = row + linear(module, f"{name}.down", inner)
    return rows


def mlp(module: Any, row: Tensor) -> Tensor:
    return linear(module, "mlp.linear_2", F.gelu(linear(module, "mlp.linear_1", row)))


def close(found: Tensor, expected: list[list[Tensor]]) -> None:
    rows = torch.stack([torch.stack(one) for one in expected])
    torch.testing.assert_close(found, rows, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_acformer_reads_all_patches_and_cls():
    module = connector("acformer")
    expected: list[list[Tensor]] = []
    for n in range(2):
        rows = list(CHOSEN.states_NAV[n])
        for i in range(2):
            rows = layer(module, f"layers.{i}", rows, list(IMAGES[n]), itself=False)
        expected.append([mlp(module, norm(module, "norm", row)) for row in rows])
    found = module(CHOSEN, SEEN)
    close(found.states_NAD, expected)
    assert torch.equal(found.index_NA, INDEX)


@torch.no_grad()
@pytest.mark.parametrize("masked", [False, True])
def test_perceiver_reads_the_image_and_itself(masked: bool):
    module = connector("perceiver")
    mask = torch.tensor([[True] * 4, [True, True, False, True]]) if masked else None
    given = Anchors(states_NAV=CHOSEN.states_NAV, index_NA=INDEX, mask_NA=mask)
    expected: list[list[Tensor]] = []
    for n in range(2):
        image = [row + module.time[0] for row in CHOSEN.states_NAV[n]]
        image = [row for a, row in enumerate(image) if mask is None or mask[n, a]]
        rows = list(module.latents)
        for i in range(2):
            rows = layer(module, f"layers.{i}", rows, image, itself=True)
        expected.append([linear(module, "to_language", norm(module, "norm", r)) for r in rows])
    found = module(given, SEEN)
    close(found.states_NAD, expected)
    assert (found.index_NA == -1).all()


def place(column: float, row: float, width: int) -> Tensor:
    """Sines and cosines of a place, wave by wave."""
    quarter = width // 4
    waves = [10000 ** (-i / quarter) for i in range(quarter)]
    found = [f(at * w) for at in (column, row) for f in (sin, cos) for w in waves]
    return torch.tensor(found)


@torch.no_grad()
@pytest.mark.parametrize("queries", [4, 16])
def test_the_resampler_reads_by_place(queries: int):
    module = connector("resampler", queries=queries)
    deep, side = 32, int(sqrt(queries))
    table = torch.stack([place(c, r, deep) for r in range(side) for c in range(side)])
    fine = table  # where queries and patches stand on one grid
    if side != 4:
        square = table.T.reshape(1, deep, side, side)
        fine = F.interpolate(square, size=GRID, mode="bicubic", align_corners=False)[0]
        fine = fine.flatten(1).T
    expected: list[list[Tensor]] = []
    for n in range(2):
        rows = [linear(module, "to_width", row) for row in CHOSEN.states_NAV[n]]
        rows = [norm(module, "norm_image", row, 1e-6) for row in rows]
        at = [torch.zeros(deep) if i < 0 else fine[i] for i in INDEX[n].tolist()]
        keys = [row + one for row, one in zip(rows, at, strict=True)]
        asking = [norm(module, "norm_queries", row, 1e-6) for row in module.queries]
        asking = [row + one for row, one in zip(asking, table, strict=True)]
        found = read(module, "read", asking, keys, rows)
        expected.append([linear(module, "last", norm(module, "norm", r, 1e-6)) for r in found])
    close(module(CHOSEN, SEEN).states_NAD, expected)


@torch.no_grad()
def test_tokenpacker_reads_window_by_window():
    module = connector("tokenpacker")
    levels = (SEEN.states_NPV.sin(), SEEN.states_NPV.cos())
    seen = Patches(states_NPV=SEEN.states_NPV, grid=GRID, levels=levels)
    every = Anchors(states_NAV=SEEN.states_NPV, index_NA=torch.arange(16).expand(2, -1))

    def made(name: str, row: Tensor) -> Tensor:
        inner = linear(module, f"{name}.2", F.gelu(linear(module, f"{name}.0", row)))
        return norm(module, f"norm_{name}", inner, 1e-6)

    expected: list[list[Tensor]] = []
    for n in range(2):
        rows: list[Tensor] = []
        for high in range(2):
            for wide in range(2):
                places = [(2 * high + y) * 4 + 2 * wide + x for y in range(2) for x in range(2)]
                # halved, bilinear is the mean of the window's four patches
                middle = SEEN.states_NPV[n, places].mean(0)
                query = norm(module, "norm_q", linear(module, "q", middle), 1e-6)
                both = [torch.cat([level[n, p] for level in levels]) for p in places]
                keys, values = ([made(name, row) for row in both] for name in "kv")
                rows.append(mlp(module, read(module, "read", [query], keys, values)[0]))
        expected.append(rows)
    found = module(every, seen)
    close(found.states_NAD, expected)
    assert found.index_NA.shape == (2, 4) and (found.index_NA == -1).all()


def test_tokenpacker_wants_every_patch():
    with pytest.raises(AssertionError, match="anchors: all"):
        build(("connector", "tokenpacker"), model=OWN_FINE | {"anchors": "cls_topk"})
