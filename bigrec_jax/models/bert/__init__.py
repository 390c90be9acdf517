"""BERT as text encoder, e.g. sentence-transformers' MiniLM, E5 and BGE.

What `protocol.EncoderFamily` asks of a family, and no more, is here.
"""

from bigrec_jax.models.bert.encoder import load

__all__ = ["MODEL_TYPES", "load"]

MODEL_TYPES: tuple[str, ...] = ("bert",)
