"""eramv_lab: where and how should vision enter a language model, and what does it cost?"""

from eramv_lab.hook import install

__version__ = "0.1.0"

install()  # AutoConfig, AutoModelForImageTextToText and AutoProcessor know our models
