"""What a fusion and its sharing refuse: options without a step of their own, sums without grid."""

import pytest
from laws.probes import spec_of
from laws.settings import TINY, section_of, with_keys

from eramv_lab.recipe.model_spec import parse_model

BLOCK = with_keys(
    TINY, sharing={"type": "separate", "init": "random", "narrow": 2}, **{"band.at": "before"}
)
ADD = section_of(("fusion", "add"))
REFUSED = {
    "ffn_parallel": (BLOCK, {"band.ffn": "gelu", "band.at": "parallel"}, "at before or after"),
    "ffn_text": (BLOCK, {"band.ffn": "gated", "band.gate": "text"}, "none, tanh or channel"),
    "rows": (BLOCK, {"sharing.norm": "rows", "band.at": "parallel"}, "norm rows needs band.at"),
    "narrow": (BLOCK, {"sharing.narrow": 3}, "narrow 3 does not divide the width of a head, 8"),
    "copy": (BLOCK, {"sharing.init": "copy"}, "narrow 2 leaves nothing to copy"),
    "turned": (BLOCK, {"band.positions": "one"}, "narrow 2 needs band.positions none"),
    "windows": (ADD, {"anchors.count": 9}, "whose windows are squares"),
    "no_pool": (ADD, {"anchors": "none"}, "anchors of type pool"),
    "layers": (ADD, {"band.length": 3}, "2 x 2 patches, one for each layer of the band; found 3"),
    "cls": (ADD, {"fine.cls": True}, "every patch, and no CLS"),
    "bridge": (ADD, {"bridge": "mlp"}, "bridge none"),
    "sharing": (ADD, {"sharing": "kv_copy"}, "leave out sharing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_says_why(name):
    section, changes, text = REFUSED[name]
    spec_of(section)
    problems = []
    assert parse_model(with_keys(section, **changes), problems) is None
    assert any(text in problem.message for problem in problems)
