"""fairseq models with a continuous output; importing this package registers them."""

from fairseq_contout.models import lstm, transformer
from fairseq_contout.models.continuous_output import ContinuousDecoder, ContinuousOutput
from fairseq_contout.models.lstm import ContinuousLSTMModel
from fairseq_contout.models.transformer import ContinuousTransformerModel

__all__ = [
    "ContinuousDecoder",
    "ContinuousLSTMModel",
    "ContinuousOutput",
    "ContinuousTransformerModel",
    "lstm",
    "transformer",
]
