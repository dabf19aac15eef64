"""fairseq plugin for sequence models that predict the embedding of the next token."""

from fairseq_contout import compat, messages

compat.apply()
messages.one_line_errors()

from fairseq_contout import criterions, models, optim, tasks  # noqa: E402  (needs compat)

__all__ = ["criterions", "models", "optim", "tasks"]
