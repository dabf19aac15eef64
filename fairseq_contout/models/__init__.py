"""fairseq models with a continuous output; importing this package registers them."""

from fairseq_contout.models import language_model, lstm, masked_lm, transformer
from fairseq_contout.models.continuous_output import ContinuousDecoder, ContinuousOutput
from fairseq_contout.models.language_model import (
    ContinuousLSTMLanguageModel,
    ContinuousTransformerLanguageModel,
)
from fairseq_contout.models.lstm import ContinuousLSTMModel
from fairseq_contout.models.masked_lm import ContinuousMaskedLanguageModel
from fairseq_contout.models.transformer import ContinuousTransformerModel

__all__ = [
    "ContinuousDecoder",
    "ContinuousLSTMLanguageModel",
    "ContinuousLSTMModel",
    "ContinuousMaskedLanguageModel",
    "ContinuousOutput",
    "ContinuousTransformerLanguageModel",
    "ContinuousTransformerModel",
    "language_model",
    "lstm",
    "masked_lm",
    "transformer",
]
