"""Frozen vision features, computed once and read from a memory map by every arm and seed.

`<root>/features/<key>/<number>.safetensors`; the key is a hash of the tower (config and weights),
the preprocessing and the data, so that nothing stale can be read. One process computes, others
wait for it. `index.json` says which row is whose: a sample without an image has none, nor has one
whose image does not decode.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from eramv_lab.data.files import locked, progress
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import BrokenSample, damaged
from eramv_lab.files import made_beside
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.parse import plain
from eramv_lab.registry import VISION
from eramv_lab.slots.contracts import FLOATS, Need
from eramv_lab.slots.needs import levels_of, needs_of

FORMAT = 2
INDEX = "index.json"
FILE_BYTES = 2**29
"""Most bytes of states in one file, so that writing needs little memory."""
Asked = tuple[Need, tuple[int, ...]]
"""What is kept beside states, CLS and its attention; and the levels."""
NOTHING: Asked = (Need.NONE, ())


class FeatureStore:
    """The features of a split: `states` [N,P,V] fp16, `cls` [N,V] fp16, `cls_attention` [N,H,P].

    CLS and its attention are there where the tower has them; `keys`, `logit_keys`, `level_0`, ...
    [N,P,V] fp16 and `cls_logits` [N,P] where a recipe asks for them. Attention is kept in fp32:
    rounding would make ties, and a selector would pick other patches than it does from pixels.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        self._rows: dict[int, int] = {sample: row for row, sample in enumerate(index["samples"])}
        self.broken = [BrokenSample(key, reason) for key, reason in index["broken"]]
        """Samples whose image could not be decoded."""
        self._parts = [_read(path) for path in sorted(folder.glob("*.safetensors"))]
        sizes = [len(part["states"]) for part in self._parts]
        self._size, self._length = sizes[0] if sizes else 1, sum(sizes)
        if self._length != len(self._rows):
            told = f"{self._length} rows, the index says {len(self._rows)}"
            raise damaged(folder, f"{told}; remove this folder")

    @classmethod
    def open(
        cls,
        dataset: ShardDataset,
        tower: nn.Module,
        vision: Any,
        pixels: Pixels | None = None,
        *,
        asked: Asked = NOTHING,
        root: Path | str = "data",
        batch: int = 64,
        shown: bool = True,
    ) -> FeatureStore:
        """The store of `tower`'s features of `dataset`; computed first where it is missing.

        `vision` is the config of the tower, which runs where its weights are, in their dtype and
        in eval mode, and is put back as it was. `pixels`: default the tower's own. `asked`: what
        is kept beside states and CLS; a store is only of what it was asked for.
        """
        pixels = pixels or Pixels.of(vision)
        key = _key(dataset, tower, vision, pixels, asked)
        folder = Path(root) / "features" / key
        if not folder.exists():
            with locked(folder):
                if not folder.exists():
                    with made_beside(folder) as fresh:
                        _compute(dataset, tower, vision, pixels, asked, fresh, batch, shown)
        return cls(folder)

    def __len__(self) -> int:
        """Images."""
        return self._length

    @property
    def first(self) -> int:
        """The first sample that has features."""
        return next(iter(self._rows))

    def has(self, index: int) -> bool:
        """Whether the sample at `index` has features."""
        return index in self._rows

    def batch(
        self, indices: Sequence[int], dtype: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """`vision_features` of the samples at `indices`, in `dtype`, but `FLOATS` in float32."""
        where = [divmod(self._rows[index], self._size) for index in indices]
        if len(self._parts) == 1:
            rows = torch.tensor([row for _, row in where], dtype=torch.long)
            held = {name: value[rows] for name, value in self._parts[0].items()}
        else:
            held = {
                name: torch.stack([self._parts[part][name][row] for part, row in where])
                for name in self._parts[0]
            }
        return {n: v if n in FLOATS else v.to(dtype) for n, v in held.items()}


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:  # the tensors stay in the mapped file
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged(path, f"damaged features ({error}); remove this folder") from None


def size_of(dataset: ShardDataset, vision: Any, asked: Asked = NOTHING) -> int:
    """Bytes of the features of a split."""
    dims, (need, levels) = vision.dims(), asked
    rows = 2 * dims.patches * dims.width
    each = rows * (1 + (Need.KEYS in need) + (Need.CLS_LOGITS in need) + len(levels))
    each += 4 * dims.patches * (Need.CLS_LOGITS in need)
    if dims.has_cls:
        each += 2 * dims.width + 4 * dims.heads * dims.patches * (not dims.merged)
    return each * sum(dataset.has_image(i) for i in range(len(dataset)))


def asked_of(spec: ModelSpec) -> Asked:
    """What the slots of a recipe want kept beside states, CLS and where it looks."""
    return needs_of(spec) & (Need.KEYS | Need.CLS_LOGITS | Need.LEVELS), levels_of(spec)


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / INDEX
    try:
        index = json.loads(file.read_text(encoding="utf-8"))
        return {"samples": list(index["samples"]), "broken": list(index["broken"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(file, f"damaged features ({error!r}); remove this folder") from None


def _key(dataset: ShardDataset, tower: nn.Module, vision: Any, pixels: Pixels, asked: Asked) -> str:
    identity = {
        "format": FORMAT,
        "tower": {"type": VISION.of(vision).name, **plain(vision, known=True)},
        "weights": weights_hash(tower),
        "pixels": asdict(pixels),
        "data": dataset.hash,
    }
    if asked != NOTHING:
        identity["asked"] = [str(asked[0]), *asked[1]]
    text = json.dumps(identity, sort_keys=True, default=str)
    return f"{dataset.split}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def weights_hash(module: nn.Module) -> str:
    """Hash of a module's state: names, shapes, dtypes and bytes of all its tensors (hex)."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _compute(
    dataset: ShardDataset,
    tower: nn.Module,
    vision: Any,
    pixels: Pixels,
    asked: Asked,
    folder: Path,
    batch: int,
    shown: bool,
) -> None:
    held: list[dict[str, Tensor]] = []
    files, per_file = 0, 0
    samples: list[int] = []
    broken: list[BrokenSample] = []
    training, weight = tower.training, next(tower.parameters())
    dims, (need, levels) = vision.dims(), asked
    if dims.has_cls:
        need |= Need.CLS if dims.merged else Need.CLS | Need.CLS_ATTENTION
    tower.eval()
    try:
        for part in _whole(dataset, batch, broken, shown):
            images = pixels([image for _, image in part])
            with torch.inference_mode():
                seen = tower(images.to(weight.device, weight.dtype), need, levels).features()
            seen = {n: (v.float() if n in FLOATS else v.half()).cpu() for n, v in seen.items()}
            samples += [sample for sample, _ in part]
            # every file but the last holds as many images, so that a row names its file
            per_file = per_file or max(1, FILE_BYTES // seen["states"].nbytes)
            held.append(seen)
            if len(held) == per_file:
                _write(folder, files, held)
                files, held = files + 1, []
        if held:
            _write(folder, files, held)
    finally:
        tower.train(training)
    index = {"samples": samples, "broken": [(b.key, b.reason) for b in broken]}
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")


def _whole(
    dataset: ShardDataset, batch: int, broken: list[BrokenSample], shown: bool
) -> Iterator[list[tuple[int, Any]]]:
    """The images that decode, with their samples, `batch` at a time; `broken` gets the others."""
    pictured = [i for i in range(len(dataset)) if dataset.has_image(i)]
    part: list[tuple[int, Any]] = []
    for sample in progress(pictured, len(pictured), "vision features", shown=shown):
        try:
            part.append((sample, dataset.image(sample)))
        except BrokenSample as error:
            broken.append(error)
        if len(part) == batch:
            yield part
            part = []
    if part:
        yield part


def _write(folder: Path, number: int, held: list[dict[str, Tensor]]) -> None:
    whole: dict[str, Any] = {n: torch.cat([part[n] for part in held]) for n in held[0]}
    save_file(whole, folder / f"{number:06d}.safetensors")
