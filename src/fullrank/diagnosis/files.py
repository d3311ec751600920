"""The former place of `fullrank.embeddings.files`, for code that imports from here."""

from fullrank.embeddings.files import EmbeddingFile, check_same_width, open_embeddings, paired

__all__ = ["EmbeddingFile", "check_same_width", "open_embeddings", "paired"]
