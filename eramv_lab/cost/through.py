"""What a connector asks for backwards, operation by operation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eramv_lab.cost.ops import Walk


def through(walk: Walk, connector: Any, rows: int) -> bool:
    """Add `rows` rows through a connector; whether its result asks for a gradient."""
    if connector is None or not rows:
        return walk.vision
    trained = "connector" in walk.trained
    read = walk.vision or trained  # what its own rows read, behind a norm or a matrix
    own = walk.vision
    if not connector.per_token:
        own = trained or (walk.vision and not connector.learned)
    asks = {"question": walk.text_tokens} if connector.reads_question else {}
    for op in connector.ops(walk.dims, rows, **asks):
        if op.kind == "attention":
            keys = read if op.flow == "memory" else own
            own = walk.attention(op, own, keys, keys) or own
        elif op.flow == "connector":
            own = walk.linear(op, own) or own
        else:  # what reads the tower is asked for what the tower asks
            made = walk.linear(op, walk.vision if op.flow == "vision" else read)
            own = own or (connector.per_token and made)
    return own
