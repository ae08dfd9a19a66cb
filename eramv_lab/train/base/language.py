"""The tiny language model learns the world's words and how to look things up in visual rows.

Layout of a sequence, which every arm repeats: `<bos>` at position 0; CLS and the visual rows, all
at position 1; then, from position 2, a question's words, the marker `answer`, the answer word.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaModel

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.questions import ask_about
from eramv_lab.data.world.scene import rng_of
from eramv_lab.data.world.vocabulary import BOS, EOS, IDS, WORDS
from eramv_lab.shapes import Dims, VisionDims
from eramv_lab.slots.connectors.mlp import MlpConnector, MlpConnectorConfig
from eramv_lab.slots.language.hf import dims_of
from eramv_lab.train.base.batches import (
    IGNORE,
    LanguageBatch,
    Store,
    draw_batch,
    pack,
)
from eramv_lab.train.base.optim import Optimizers, warm_flat_decay
from eramv_lab.train.base.recipe import FitRecipe, LanguageRecipe, PhaseRecipe
from eramv_lab.train.base.tower import Tick


class BaseModel(nn.Module):
    """Connector and language model, with a packed forward of their own for speed."""

    def __init__(
        self, recipe: LanguageRecipe, connector: MlpConnectorConfig, vision: VisionDims
    ) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=recipe.width,
            intermediate_size=recipe.ffn,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.kv_heads,
            head_dim=recipe.head_dim,
            rms_norm_eps=recipe.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
            tie_word_embeddings=True,
            pad_token_id=None,
            bos_token_id=IDS[BOS],
            eos_token_id=IDS[EOS],
        )
        dims = Dims(vision=vision, language=dims_of(config.to_dict()))
        self.connector = MlpConnector(connector, dims)
        self.language = LlamaModel(config)

    def forward(self, batch: LanguageBatch, looks: Collection[int] | None = None) -> Tensor:
        """Logits [B,Q,L,K].

        `looks`: the layers in which text can see visual rows (None: all of them).
        """
        model = self.language
        B, Q, L = batch.words_BQL.shape
        rows = batch.visual_BRV.shape[1]
        bos_B1D = model.embed_tokens(torch.full((B, 1), IDS[BOS]))
        words_BTD = model.embed_tokens(batch.words_BQL.flatten(1))
        x_BSD = torch.cat([bos_B1D, self.connector(batch.visual_BRV), words_BTD], 1)
        positions_S = torch.cat(
            [torch.zeros(1), torch.ones(rows), torch.arange(2, 2 + L).repeat(Q)]
        ).long()
        rotary = model.rotary_emb(x_BSD, positions_S[None])
        seen = _mask(batch.real_BR, Q, L, hidden=False)
        looks = range(len(model.layers)) if looks is None else looks
        blind = len(looks) < len(model.layers)
        unseen = _mask(batch.real_BR, Q, L, hidden=True) if blind else seen
        for number, layer in enumerate(model.layers):
            mask = seen if number in looks else unseen
            x_BSD = layer(x_BSD, attention_mask=mask, position_embeddings=rotary)
        text_BTD = model.norm(x_BSD[:, 1 + rows :])
        return F.linear(text_BTD, model.embed_tokens.weight).unflatten(1, (Q, L))


def _mask(real_BR: Tensor, Q: int, L: int, hidden: bool) -> Tensor:
    """Additive mask [B,1,S,S]: causal, questions apart; `hidden` takes visual rows from text."""
    B, rows = real_BR.shape
    prefix, text = 1 + rows, Q * L
    question_T = torch.arange(text) // L
    see_SS = torch.ones(prefix + text, prefix + text, dtype=torch.bool).tril()
    see_SS[prefix:, prefix:] &= question_T[:, None] == question_T
    if hidden:
        see_SS[prefix:, 1:prefix] = False
    see_BSS = see_SS.repeat(B, 1, 1)
    see_BSS[:, :, 1:prefix] &= real_BR[:, None]
    return torch.zeros(see_BSS.shape).masked_fill_(~see_BSS, float("-inf"))[:, None]


def train_language(
    model: BaseModel,
    store: Store,
    phases: list[PhaseRecipe],
    recipe: FitRecipe,
    world: WorldConfig,
    seed: int,
    tick: Tick,
) -> None:
    """Train connector and language model through `phases`, in place."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, 1))))
    optimizers = Optimizers(
        model,
        lambda name: "embed" not in name,
        muon=recipe.muon,
        adamw=recipe.adamw,
        decay=recipe.weight_decay,
    )
    steps, step = sum(phase.steps for phase in phases), 0
    for number, phase in enumerate(phases, 1):
        for _ in range(phase.steps):
            optimizers.scale(
                warm_flat_decay(
                    step, steps, warm=recipe.warmup, decay=recipe.decay_from, last=recipe.last
                )
            )
            batch = draw_batch(store, phase, world, rng)
            open_ = looks(phase, len(model.language.layers), rng)
            loss, right = _loss(model, batch, open_, recipe.eos_weight)
            loss.backward()
            optimizers.step(clip=recipe.clip)
            step += 1
            tick(f"language, phase {number}, loss {loss.item():.2f}, right {right:.2f}")
    model.eval().requires_grad_(False)


def _within(bounds: tuple[int, int], rng: np.random.Generator) -> int:
    return int(rng.integers(bounds[0], bounds[1] + 1))


def looks(phase: PhaseRecipe, layers: int, rng: np.random.Generator) -> list[int]:
    """Layers in which text sees visual rows in this step; one at least."""
    first, last = _within(phase.blocked, rng), _within(phase.blocked_last, rng)
    open_ = list(range(first, layers - last))
    if phase.looking == 1:
        return open_
    some = [number for number in open_ if rng.random() < phase.looking]
    return some or [open_[int(rng.integers(len(open_)))]]


def _loss(
    model: BaseModel, batch: LanguageBatch, looks: Collection[int], eos_weight: float
) -> tuple[Tensor, float]:
    wanted = batch.labels_BQL != IGNORE
    logits_NK, labels_N = model(batch, looks)[wanted], batch.labels_BQL[wanted]
    # where a caption ends is a part of what it says, the end of one word is not
    one_word = (wanted.sum(-1, keepdim=True) == 2).expand_as(wanted)
    end_N = (labels_N == IDS[EOS]) & one_word[wanted]
    losses_N = F.cross_entropy(logits_NK, labels_N, reduction="none")
    right = (logits_NK.detach().argmax(-1) == labels_N)[~end_N].float().mean().item()
    return losses_N[~end_N].mean() + eos_weight * losses_N[end_N].mean(), right


@torch.no_grad()
def all_token_accuracy(
    model: BaseModel,
    store: Store,
    world: WorldConfig,
    batch: int = 25,
    looks: Collection[int] | None = None,
) -> dict[str, float]:
    """Share of right answers with every patch in the sequence, over all and by question type.

    `looks`: the layers in which text can see visual rows (None: all of them).
    """
    right: dict[str, list[bool]] = {}
    for start in range(0, len(store.objects), batch):
        indices = range(start, min(start + batch, len(store.objects)))
        questions = [
            ask_about(store.objects[i], world, rng_of(world, "base-test", i, 1), world.questions)
            for i in indices
        ]
        packed = pack([store.rows_NSV[i] for i in indices], questions)
        # a caption is right where every word of it and its end are, each behind the right ones
        wanted = packed.labels_BQL != IGNORE
        wanted &= (packed.labels_BQL != IDS[EOS]) | (wanted.sum(-1, keepdim=True) > 2)
        said = model(packed, looks).argmax(-1) == packed.labels_BQL
        hits = (said | ~wanted).all(-1).flatten().tolist()
        asked = [question for some in questions for question in some]
        for question, hit in zip(asked, hits, strict=True):
            right.setdefault(question.type, []).append(hit)
            right.setdefault("all", []).append(hit)
    return {name: round(sum(hits) / len(hits), 4) for name, hits in sorted(right.items())}
