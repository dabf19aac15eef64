"""fairseq tasks; importing this package registers them."""

from fairseq_contout.tasks import continuous_language_modeling, continuous_translation

__all__ = ["continuous_language_modeling", "continuous_translation"]
