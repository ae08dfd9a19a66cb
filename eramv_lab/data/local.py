"""Where a split lies on this machine: drawn, imported, or copied from a stream."""

from __future__ import annotations

from pathlib import Path

from eramv_lab.data.make import make_data
from eramv_lab.errors import UserError
from eramv_lab.recipe.fits import lacking
from eramv_lab.recipe.schema import DataConfig


def local_folder(data: DataConfig, split: str, *, shown: bool = True) -> Path:
    """The folder of shards that holds a split; made, or copied from a stream, where it must be."""
    if problems := list(lacking(data, split)):
        raise UserError(problems)
    if data.type == "world":
        return make_data(data.source, data.folder, shown=shown)
    if data.type == "shards":
        return Path(data.source.path).expanduser()
    if split == "train":
        raise ValueError("a stream has no local training split")
    from eramv_lab.data.held_out import held_out  # webdataset is slow to import

    return held_out(data.source, data.folder, split, shown=shown)


def local_splits(data: DataConfig) -> tuple[str, ...]:
    """The splits that `local_folder` knows: of a stream, the held-out ones."""
    return tuple(s for s in data.source.splits() if s != "train" or data.type != "stream")


def local_folders(data: DataConfig, *, shown: bool = True) -> list[Path]:
    """The folders of all these splits, each once."""
    # only those of a stream lie apart
    splits = local_splits(data) if data.type == "stream" else ("test",)
    return [local_folder(data, split, shown=shown) for split in splits]
