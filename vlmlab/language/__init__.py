"""Language models and their tokenizer: Llama, the KV cache, cached generation. Notebook 02."""

from vlmlab.language.cache import KVCache
from vlmlab.language.config import LlamaConfig
from vlmlab.language.generation import LanguageModel, filter_logits, generate, stream
from vlmlab.language.llama import Llama, rope_table, rotate
from vlmlab.language.tokenizer import SPECIALS, Tokenizer

__all__ = [
    "SPECIALS",
    "KVCache",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "Tokenizer",
    "filter_logits",
    "generate",
    "rope_table",
    "rotate",
    "stream",
]
