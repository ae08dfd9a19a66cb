"""A finished model asked: one question or many, in a conversation, and where it looked."""

from eramv_lab.talk.model import load
from eramv_lab.talk.talker import Answer, How, Question, Talker

__all__ = ["Answer", "How", "Question", "Talker", "load"]
