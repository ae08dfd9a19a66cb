"""`LitArm`: one arm as Lightning trains it, built from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.optim.lr_scheduler import LambdaLR

from eramv_lab.data.collate import IGNORED, repeat_images
from eramv_lab.data.words import begun_from, words_of
from eramv_lab.errors import Problem, UserError
from eramv_lab.model import build_model
from eramv_lab.recipe.connecting import told_anew
from eramv_lab.recipe.lora import adapted, bits_of
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.recipe.parse import parse_config
from eramv_lab.recipe.schema import TrainConfig
from eramv_lab.train.lora import add_differences, quantise, require_bits, summary
from eramv_lab.train.optim import build_optimizer, schedule
from eramv_lab.train.resume import load_weights
from eramv_lab.train.roles import counts, role_of, set_trainable, table
from eramv_lab.train.shard import shard
from eramv_lab.train.start import load_start


class LitArm(LightningModule):
    """The model of a resolved arm with its starting weights, and how it learns.

    `arm` is the plain recipe, `start` the folder of a `base`, `arm` or `model`; nothing else is
    kept as a hyperparameter, so that a checkpoint loads without unpickling anything. `whole`: no
    matrix is kept in fewer bits, whatever the recipe says.
    """

    def __init__(
        self,
        arm: Mapping[str, Any],
        seed: int,
        start: Mapping[str, str] | None = None,
        *,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"arm": dict(arm), "seed": seed, "start": dict(start or {})})
        self._made_of = arm, seed, start
        problems: list[Problem] = []
        spec = parse_model(arm["model"], problems)
        train = parse_config(TrainConfig, arm["train"], "train", problems)
        if spec is None or train is None:
            raise UserError(problems)
        self.spec, self.settings, self.seed = spec, train, seed
        self.words = words_of(spec, begun_from(start))
        self.model: Any = self.started()
        self.roles = arm["train"]["roles"]
        self._quantised = bool(bits_of(self.roles)) and not whole
        if self._quantised:
            require_bits(self.roles)
            quantise(self.model)
        add_differences(self.model, self.roles, spec, seed)
        set_trainable(self.model, self.roles)
        self.counts = counts(self.model)
        self._sharded = False

    def started(self) -> Any:
        """The model as it is before anything is learnt, made anew."""
        words, (_, seed, start) = self.words, self._made_of
        model = build_model(self.spec, seed=seed, image_token_id=words.image, stops=words.stops)
        load_start(model, start)
        return model

    def whole(self) -> LitArm:
        """The trained arm with whole weights, for the first process; every process calls it.

        An arm that was neither sharded nor kept in 4 bits comes back as it is.
        """
        if self._quantised:
            fresh = LitArm(*self._made_of, whole=True)
            learnt = {n: p.detach().cpu() for n, p in self.named_parameters() if p.requires_grad}
            load_weights(fresh, {"model": learnt})
            return fresh
        if not self._sharded:
            return self
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        found = get_model_state_dict(self, options=options)
        if not self.trainer.is_global_zero:
            return self
        fresh = LitArm(*self._made_of)
        fresh.load_state_dict(found)
        return fresh

    def configure_model(self) -> None:
        """Shard the model where the strategy asks for it."""
        if self.device_mesh is not None and not self._sharded:
            shard(self.model, self.device_mesh["data_parallel"])
            self._sharded = True

    @property
    def vision_frozen(self) -> bool:
        """Whether the tower's features may be computed once and kept."""
        return self.roles.get("vision", "frozen") == "frozen"

    def train(self, mode: bool = True) -> LitArm:
        """As ever, but a frozen tower stays in eval mode."""
        super().train(mode)
        if self.vision_frozen:
            self.model.vision_tower.eval()
        return self

    def configure_optimizers(self) -> Any:
        """One optimizer with groups by role, and its schedule."""
        settings = self.settings
        learning = [
            (name, role_of(name), p) for name, p in self.model.named_parameters() if p.requires_grad
        ]
        optimizer = build_optimizer(
            learning,
            name=settings.optimizer,
            lr=settings.lr,
            muon_lr=settings.muon_lr,
            lora_lr={r: lora.lr for r, lora in adapted(self.roles).items() if lora.lr},
            weight_decay=settings.weight_decay,
        )
        factor = schedule(
            steps=settings.steps,
            warmup=settings.warmup,
            shape=settings.schedule,
            floor=settings.final,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def on_fit_start(self) -> None:
        """Say what learns."""
        anew = told_anew(self.spec, self._made_of[2])
        rank_zero_info("\n".join([table(self.counts), *anew, *summary(self.roles, self.spec)]))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Each batch has a random stream of its own, wherever training began and on any device."""
        part = batch_idx % self.settings.accumulate
        stream = part * self.trainer.world_size + self.trainer.global_rank
        # a generator on the CPU takes 32 bits of its seed, so the numbers are mixed into them
        mixed = np.random.SeedSequence([self.seed, self.global_step, stream]).generate_state(1)
        torch.manual_seed(int(mixed[0]))

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        """The loss over the answers, every supervised word of all devices counting alike."""
        loss = self.model(**repeat_images(batch)).loss
        if self.trainer.world_size > 1:
            loss = self._shared(loss, batch)
        scheduler: Any = self.lr_schedulers()
        self.log("train/loss", loss, sync_dist=True)
        self.log("train/lr", scheduler.get_last_lr()[0])
        return loss

    def _shared(self, loss: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """This device's loss so that the mean over devices is the mean over all their words."""
        words = (batch["labels"][:, 1:] != IGNORED).sum().to(loss.dtype)
        total = self.trainer.strategy.reduce(words.clone(), reduce_op="sum")
        return loss * (words * self.trainer.world_size / total.clamp(min=1))

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Loss, and the share of the answers' words that come first where the rest is given.

        Both are means over words.
        """
        batch = repeat_images(batch)
        out = self.model(**batch)
        target_BT = batch["labels"][:, 1:]
        ends = torch.tensor(self.words.stops, device=target_BT.device)
        asked_BT = (target_BT != IGNORED) & ~torch.isin(target_BT, ends)
        right_BT = out.logits[:, :-1].argmax(-1) == target_BT
        words = int((target_BT != IGNORED).sum()), int(asked_BT.sum())
        values = {"val/loss": out.loss, "val/accuracy": right_BT[asked_BT].float().mean()}
        for (name, value), count in zip(values.items(), words, strict=True):
            mean = value if count else torch.zeros_like(value)  # of nothing, which weighs nothing
            self.log(name, mean, batch_size=count, sync_dist=True)
