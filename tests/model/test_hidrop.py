"""HiDrop's recipe: rows come late, leave in a concave pyramid, keep positions, are gone early."""

import torch
from laws.recipes import model_of_recipe, places, plain_of
from laws.whole import IMAGE, inputs, sample

LAYERS = 8
KEPT = {3: 13, 4: 1, 5: 1}
"""Of 36 rows, before the layers that 10, 14 and 16 (one here), and 18 of 32 are."""


@torch.no_grad()
def test_the_recipe_is_its_plain_reading():
    model = model_of_recipe("hidrop")
    one = sample(model, 6)
    batch = inputs(model, [one])
    plain, ids_S = plain_of(model), batch["input_ids"][0]
    words_SD = plain.embed_tokens(ids_S)
    place_S, visual_S = places(ids_S, 36), ids_S == IMAGE
    states_PD = model.connector(model.see(batch["pixel_values"], None).states_NPV)[0]
    rows_LD, here_L = words_SD[~visual_S], (~visual_S).nonzero()[:, 0]
    for i, layer in enumerate(plain.layers):
        if i == LAYERS // 4:
            rows_SD = words_SD.masked_scatter(visual_S[:, None], states_PD)
            rows_LD, here_L = rows_SD.index_copy(0, here_L, rows_LD), torch.arange(len(ids_S))
        rope = plain.rotary_emb(rows_LD[None], place_S[here_L][None])
        mask = torch.full((1, 1, len(here_L), len(here_L)), torch.finfo().min).triu(1)
        if i in KEPT or i == 3 * LAYERS // 4:
            normed = layer.input_layernorm(rows_LD[None])
            maps = layer.self_attn(normed, attention_mask=mask, position_embeddings=rope)[1]
            asked_L = maps[0].mean(0)[here_L.tolist().index(one.prompt - 1)]
            best_L = asked_L.masked_fill(~visual_S[here_L], -1).argsort(descending=True)
            stay_L = ~visual_S[here_L]
            stay_L[best_L[: KEPT.get(i, 0)]] = True
            rows_LD, here_L = rows_LD[stay_L], here_L[stay_L]
            rope = plain.rotary_emb(rows_LD[None], place_S[here_L][None])
            mask = mask[:, :, : len(here_L), : len(here_L)]
        rows_LD = layer(rows_LD[None], attention_mask=mask, position_embeddings=rope)[0]
    assert torch.equal(here_L, (~visual_S).nonzero()[:, 0])
    expected = model.lm_head(plain.norm(rows_LD))
    torch.testing.assert_close(model(**batch).logits[0, here_L], expected, atol=1e-5, rtol=1e-5)
