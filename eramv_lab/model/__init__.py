"""The composed model in transformers' conventions."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from eramv_lab.model.build import build_model
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.modeling import EramvForConditionalGeneration
from eramv_lab.model.processing import EramvProcessor

AutoConfig.register(EramvConfig.model_type, EramvConfig, exist_ok=True)
AutoModelForImageTextToText.register(EramvConfig, EramvForConditionalGeneration, exist_ok=True)
AutoProcessor.register(EramvConfig, EramvProcessor, exist_ok=True)

__all__ = ["EramvConfig", "EramvForConditionalGeneration", "EramvProcessor", "build_model"]
