"""After the last layer: logits where they are wanted, the loss where there is something to say."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from eramv_lab.model.rows import Rows


def answer(
    lm_head: nn.Module,
    rows: Rows,
    target_BT: Tensor | None,
    *,
    width: int,
    keep: int,
    training: bool,
) -> tuple[Tensor | None, Tensor]:
    """The loss over supervised rows, and logits in the layout of the input.

    In training the head sees the supervised rows alone: logits [n,K]; the loss of none is 0.
    Otherwise logits [B,T,K] (the last `keep` rows, where it is not 0); rows that left have zeros.
    """
    hidden_BSD, target_BS = rows.hidden_BSD, None
    if target_BT is not None:
        target_BS = target_BT.gather(1, rows.rows_BS)
        if rows.valid_BS is not None:
            target_BS = target_BS.masked_fill(~rows.valid_BS, -100)
        if training and not keep:
            supervised_BS = target_BS != -100
            logits_nK = lm_head(hidden_BSD[supervised_BS])
            if not len(logits_nK):  # every answer was cut off: a mean of nothing would be NaN
                return logits_nK.float().sum(), logits_nK
            return functional.cross_entropy(logits_nK.float(), target_BS[supervised_BS]), logits_nK
    logits = lm_head(hidden_BSD[:, -keep:] if keep else hidden_BSD)
    loss = None
    if target_BS is not None:
        target_BS = target_BS[:, -logits.shape[1] :]
        loss = functional.cross_entropy(logits.float().flatten(0, 1), target_BS.flatten())
    if not keep and rows.moved:
        if rows.valid_BS is not None:
            logits = logits.masked_fill(~rows.valid_BS[..., None], 0)
        index_BSK = rows.rows_BS[..., None].expand(-1, -1, logits.shape[2])
        full = logits.new_zeros(logits.shape[0], width, logits.shape[2])
        logits = full.scatter(1, index_BSK, logits)
    return loss, logits
