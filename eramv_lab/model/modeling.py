"""`EramvForConditionalGeneration`: the slots composed into one model of transformers' kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from eramv_lab.model.add import additions
from eramv_lab.model.arrange import (
    arrange,
    count_images,
    fill,
    real_rows,
    refuse_images,
    set_rankers,
)
from eramv_lab.model.cache import StreamCache
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.decoder import Maps, run_layers
from eramv_lab.model.generation import EramvGeneration
from eramv_lab.model.head import answer
from eramv_lab.model.loading import EramvLoading
from eramv_lab.model.parts import build_band, build_part, seeded
from eramv_lab.model.sight import Sight, asked, look, remember
from eramv_lab.model.step import swap_in
from eramv_lab.slots.contracts import Need, Patches, Question
from eramv_lab.slots.needs import levels_of, needs_of


class EramvForConditionalGeneration(  # pyright: ignore[reportIncompatibleMethodOverride]
    EramvGeneration, EramvLoading, PreTrainedModel, GenerationMixin
):
    """A vision tower, a connector and a language model, with whatever the slots put between them.

    The language model is the transformers `AutoModel` itself (names, weights, config untouched);
    the band's own modules hang at `language_model.layers.{i}.band`.
    """

    config_class = EramvConfig
    config: EramvConfig
    main_input_name = "input_ids"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _skip_keys_device_placement = ["past_key_values"]
    _tied_weights_keys = {"lm_head.weight": "language_model.embed_tokens.weight"}

    def __init__(self, config: EramvConfig) -> None:
        super().__init__(config)
        spec, seed = config.spec, config.init_seed
        dims, text = spec.dims(), config.get_text_config()
        self.spec, self.dims, self.events = spec, dims, spec.events()
        self.visual_rows = max(dims.visual, 1)
        """Placeholders that stand for one image in `input_ids`."""
        self.vision_tower = build_part("vision", spec.vision, dims, seed, "vision")
        self.selector = build_part("anchors", spec.anchors, dims, seed, "anchors")
        self.fine = build_part("fine", spec.fine, dims, seed, "fine")
        self.connector = build_part("connector", spec.connector, dims, seed, "connector")
        own = spec.fine_connector
        self.fine_connector = build_part("connector", own, dims, seed, "fine_connector")
        self.language_model = build_part("language", spec.language, dims, seed, "language")
        self.language_model.config._attn_implementation = config._attn_implementation
        with seeded(seed, "head"):
            self.lm_head = nn.Linear(dims.language.width, dims.language.vocab, bias=False)
            nn.init.normal_(self.lm_head.weight, std=text.initializer_range)
        for layer in self.language_model.layers:
            swap_in(layer)
        share = spec.bridge is not None and spec.bridge.share == "band"
        self.shared_bridge = None
        if share:
            self.shared_bridge = build_part("bridge", spec.bridge, dims, seed, "bridge")
        for i in spec.readers:
            self.language_model.layers[i].band = build_band(spec, seed, i)
            for module in self.language_model.layers[i].band.modules():
                module._is_hf_initialized = True  # or the language model's rule would start it over
        self.post_init()
        if self.generation_config is not None:  # a placeholder is never an answer
            self.generation_config.suppress_tokens = [config.image_token_id]
        names = {type(layer).__name__ for layer in self.language_model.layers}
        self._no_split_modules = [*(self._no_split_modules or []), *names]
        self.reset_band()

    @classmethod
    def from_llava(
        cls, source: Any, *, seed: int = 0, **slots: Any
    ) -> EramvForConditionalGeneration:
        """A model on the weights of a LLaVA checkpoint: a folder, hub id or transformers' model.

        `slots` are those of a recipe (`anchors={"type": "cls_topk", "count": 64}`,
        `band="middle"`, `bridge="mlp"`); without any it is that LLaVA. New parts, drawn from
        `seed`, start so that the model begins as the checkpoint's anchors-only model; a band that
        is open from the first step is warned of. Raises UserError.
        """
        from eramv_lab.model.convert import from_llava

        return from_llava(source, seed=seed, **slots)

    def _init_weights(self, module: nn.Module) -> None:
        """Components start themselves (zeros stay zeros); the language model by its own rule."""

    @torch.no_grad()
    def reset_band(self) -> None:
        """Start the band's own weights from the layers they stand in, as their sharing says, and
        its bridges from the connector."""
        bridges = [self.shared_bridge]
        for i in self.spec.readers:
            layer = self.language_model.layers[i]
            layer.band.sharing.reset_from(layer)  # on meta too: a norm's epsilon is no weight
            bridges.append(layer.band.bridge)
        if self.spec.bridge is not None and self.spec.bridge.copies:
            for bridge in filter(None, bridges):
                bridge.reset_from(self.connector)

    def get_input_embeddings(self) -> nn.Module:
        """The language model's embedding."""
        return self.language_model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's embedding."""
        self.language_model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the head."""
        self.lm_head = new_embeddings

    @property
    def need(self) -> Need:
        """What selector, connectors and fine features ask of the tower."""
        need = needs_of(self.spec)
        for part in (self.selector, self.connector, self.fine_connector):
            need |= getattr(part, "need", Need.NONE)
        return need

    def see(
        self, pixel_values: Tensor | None, vision_features: dict[str, Tensor] | None
    ) -> Patches | None:
        """The tower's output for [N,3,H,W] pixels, or as it was cached; None without images."""
        if vision_features is not None:
            dtype = next((self.connector or self.fine_connector).parameters()).dtype
            return Patches.of(vision_features, self.dims.vision.grid, dtype)
        if pixel_values is None or not pixel_values.shape[0]:
            return None
        dtype = next(self.vision_tower.parameters()).dtype
        return self.vision_tower(pixel_values.to(dtype), self.need, levels_of(self.spec))

    def look(self, patches: Patches, question: Question | None = None) -> Sight:
        """What is made of the images: rows of the sequence, fine features of the band."""
        return look(
            patches,
            self.spec,
            self.selector,
            self.connector,
            self.fine,
            self.fine_connector,
            question,
        )

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        vision_features: dict[str, Tensor] | None = None,
        image_counts: Sequence[int] | None = None,
        question_ids: Tensor | None = None,
        question_mask: Tensor | None = None,
        segments: Tensor | None = None,
        prompt_end: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the loss over the supervised positions where `labels` are given.

        Args:
            input_ids: [B,T]; each image is a run of `visual_rows` placeholders.
            attention_mask: [B,T], 0 on padding, on either side.
            labels: [B,T] aligned with `input_ids` (shifted here); -100 is not supervised. In
                training mode logits are those of the supervised positions alone, [n,K].
            pixel_values: [N,3,H,W], the images in order of their samples.
            vision_features: the tower's output in place of pixels: `states` [N,P,V], `cls` [N,V],
                `cls_attention` [N,heads,P] and what else is asked for (`Patches.features`).
            image_counts: images of each sample; counted from `input_ids` where not given.
            question_ids: [B,T] the words of each question alone, for a connector that reads them.
            question_mask: [B,T], 0 on the padding of `question_ids`, on either side.
            segments: [B,T] packed questions: 0 is the shared prefix, j is question j, which sees
                the prefix and itself.
            prompt_end: [B] the row whose attention a reducer ranks by; default: the row before
                the first supervised one, or the last.
            logits_to_keep: only the last so many positions get logits (0: all).
            output_attentions: attention weights by layer, (to rows, to fine features) each; needs
                `attn_implementation="eager"`.

        Raises ValueError where placeholders and images do not fit, or an input is not supported.
        """
        eager = self.language_model.config._attn_implementation == "eager"
        if output_attentions and not eager:
            raise ValueError('output_attentions needs attn_implementation="eager"')
        past = self._past(past_key_values, use_cache)
        seen = 0 if past is None else past.record.seen
        patches = self.see(pixel_values, vision_features)
        visual_BT = input_ids == self.config.image_token_id
        if seen:
            # on an accelerator a look would wait: `generate` has looked already
            look_at = visual_BT.device.type == "cpu" and visual_BT.shape[1] > 1
            refuse_images(patches is not None or (look_at and bool(visual_BT.any())))
        counts = (0,) * input_ids.shape[0]
        if not seen:
            images = 0 if patches is None else patches.states_NPV.shape[0]
            counts = count_images(visual_BT, images, self.visual_rows, image_counts)
        sight = None
        if patches is not None and any(counts):
            sight = self.look(patches, asked(question_ids, question_mask, counts))
        valid_BT = real_rows(attention_mask, input_ids.shape[1], seen)
        layout = arrange(
            visual_BT,
            valid_BT,
            segments,
            spec=self.spec,
            dims=self.dims,
            counts=counts,
            sight=sight,
            past=past,
        )
        memory = None
        if sight is not None and self.spec.readers:
            memory = remember(sight, layout, counts, self.spec)
        target_BT = None if labels is None else functional.pad(labels[:, 1:], (0, 1), value=-100)
        embed = self.language_model.embed_tokens
        words_BT = input_ids
        if self.config.image_token_id >= self.dims.language.vocab:  # a word the model has not
            words_BT = input_ids.masked_fill(visual_BT, 0)
        events = self.events if sight is not None and sight.visual_NAD is not None else ()
        wait = any(event.kind == "inject" for event in events)
        rows = fill(embed, words_BT, layout, counts, sight, self.visual_rows, wait=wait)
        if not seen and any(event.looks for event in events):
            set_rankers(rows, events, prompt_end, target_BT, layout.valid_BT, input_ids)
        maps = Maps() if output_attentions else None
        hidden: list[Tensor] | None = [] if output_hidden_states else None
        rows = run_layers(
            self.language_model,
            rows,
            events=events,
            fusion=self.spec.fusion,
            memory=self._bridged(memory),
            added=additions(sight, layout, self.spec),
            bridge=self.shared_bridge if self.spec.bridge and self.spec.bridge.carry else None,
            carry=bool(self.spec.bridge and self.spec.bridge.carry),
            past=past,
            maps=maps,
            hidden=hidden,
        )
        if past is not None:
            past.record.seen += input_ids.shape[1]
        loss, logits = answer(
            self.lm_head,
            rows,
            target_BT,
            width=input_ids.shape[1],
            keep=logits_to_keep,
            training=self.training,
        )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,  # type: ignore[arg-type]
            past_key_values=past,
            hidden_states=None if hidden is None else tuple(hidden),
            attentions=None if maps is None else tuple(zip(maps.own, maps.cross, strict=True)),  # type: ignore[arg-type]
        )

    def _past(self, past: Cache | None, use_cache: bool | None) -> StreamCache | None:
        if past is None:
            wanted = use_cache if use_cache is not None else False
            return (
                StreamCache(DynamicCache(config=self.config.get_text_config())) if wanted else None
            )
        return past if isinstance(past, StreamCache) else StreamCache(past)

    def _bridged(self, memory: Any) -> Any:
        """The fine features after a bridge that is applied once for the whole band."""
        if memory is None or self.shared_bridge is None or self.spec.bridge.carry:
            return memory
        first = self.language_model.layers[self.spec.band[0]]
        states_BMD = self.shared_bridge(memory.states_BMD, layer=first)
        return dataclasses.replace(memory, states_BMD=states_BMD)
