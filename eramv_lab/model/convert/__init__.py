"""From `llava-hf` checkpoints to models of ours and back, tensor by tensor."""

from eramv_lab.model.convert.from_llava import convert_llava, from_llava
from eramv_lab.model.convert.sections import arm_section
from eramv_lab.model.convert.to_llava import to_llava

__all__ = ["arm_section", "convert_llava", "from_llava", "to_llava"]
