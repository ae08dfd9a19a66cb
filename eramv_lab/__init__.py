"""eramv_lab: where and how should vision enter a language model, and what does it cost?"""

__version__ = "0.1.0"
