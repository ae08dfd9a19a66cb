"""What a user may set behind `--model_args`, checked; and the model that it names, loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from eramv_lab.errors import Problem, UserError, nearest

DTYPES = ("auto", "float32", "bfloat16", "float16")
ATTENTION = ("eager", "sdpa", "flash_attention_2")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Model, adapter and how they run."""

    pretrained: str
    """A model folder, or a hub id."""
    adapter: str | None = None
    """A folder or hub id that `peft` reads, laid on the model."""
    device: str | None = None
    """`cpu`, `cuda`, ...; by default a GPU where there is one. Of several processes (`accelerate
    launch`) each has its own."""
    dtype: str = "auto"
    """Of the weights; `auto`: as they were saved."""
    batch_size: int = 1
    """Requests answered together."""
    attn_implementation: str | None = None
    """As in transformers."""
    max_new_tokens: int = 1024
    """Longest answer of a task that does not say."""

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Options:
        """Of plain values, numbers perhaps as text. Raises UserError with everything wrong."""
        known = [field.name for field in dataclasses.fields(cls)]
        problems = [
            Problem(
                message="no such option",
                key=f"model_args.{name}",
                nearest=nearest(name, known),
                allowed=tuple(known),
            )
            for name in given
            if name not in known
        ]
        if not given.get("pretrained"):
            problems.append(
                Problem(message="missing: a model folder or hub id", key="model_args.pretrained")
            )
        # lmms-eval makes a number of whatever looks like one, a folder's name too
        values: dict[str, Any] = {n: str(given[n]) for n in known if given.get(n) is not None}
        for name, allowed in (("dtype", DTYPES), ("attn_implementation", ATTENTION)):
            if name in values and values[name] not in allowed:
                problems.append(
                    Problem(
                        message=f"found {values[name]!r}",
                        key=f"model_args.{name}",
                        nearest=nearest(values[name], allowed),
                        allowed=allowed,
                    )
                )
        for name in ("batch_size", "max_new_tokens"):
            if name in values:
                text = values[name]
                values[name] = int(text) if text.isdecimal() else 0
                if values[name] < 1:
                    message = f"found {text!r}; a whole number from 1 is expected"
                    problems.append(Problem(message=message, key=name))
        if problems:
            raise UserError(problems)
        return cls(**values)

    def place(self) -> torch.device:
        """The device of a single process. Raises UserError where torch knows no such one."""
        try:
            return torch.device(self.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        except RuntimeError as error:
            raise UserError(Problem(message=str(error).split("\n")[0], key="device")) from None

    def load(self) -> tuple[Any, Any]:
        """Model, the adapter on it, and processor; safetensors alone are read.

        Raises UserError naming what cannot be loaded.
        """
        from eramv_lab.talk import load

        talker = load(
            self.pretrained,
            adapter=self.adapter,
            device="cpu",  # its place is told later, by the number of its process
            dtype=self.dtype,
            attn_implementation=self.attn_implementation,
        )
        return talker.model, talker.processor
