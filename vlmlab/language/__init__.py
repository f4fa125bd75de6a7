"""Language models and their tokenizer: Llama, Mamba, their caches, generation. Notebooks 02, 08."""

from vlmlab.language.cache import KVCache
from vlmlab.language.config import LlamaConfig, MambaConfig
from vlmlab.language.generation import LanguageModel, filter_logits, generate, stream
from vlmlab.language.llama import Llama, rope_table, rotate
from vlmlab.language.mamba import Mamba, MambaCache
from vlmlab.language.tokenizer import SPECIALS, Tokenizer

__all__ = [
    "SPECIALS",
    "KVCache",
    "LanguageModel",
    "Llama",
    "LlamaConfig",
    "Mamba",
    "MambaCache",
    "MambaConfig",
    "Tokenizer",
    "filter_logits",
    "generate",
    "rope_table",
    "rotate",
    "stream",
]
