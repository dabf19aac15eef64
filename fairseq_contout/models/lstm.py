"""``continuous_lstm``: fairseq's attentional LSTM with a continuous output."""

from contextlib import nullcontext

import torch
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.lstm import LSTMDecoder, LSTMModel

from fairseq_contout.models.build import attach_output, forget_vectors
from fairseq_contout.models.continuous_output import ContinuousDecoder
from fairseq_contout.models.option_checks import check_options
from fairseq_contout.models.options import add_continuous_args
from fairseq_contout.models.recurrent import gather_in, gathering


class ContinuousLSTMDecoder(ContinuousDecoder, LSTMDecoder):
    """fairseq's LSTM decoder without a softmax; on a CPU a weight gets one gradient for all steps.

    GPUs have a fused cell, and keep it.
    """

    def attach(self, output):
        """Put the output on top of the decoder, and gather what its steps have in common."""
        super().attach(output)
        gather_in(self)

    def extract_features(self, prev_output_tokens, encoder_out=None, incremental_state=None):
        """Return features ``(B, T, f)`` and attention, as the parent does."""
        gather = torch.is_grad_enabled() and prev_output_tokens.device.type == "cpu"
        sources = None if encoder_out is None else encoder_out[0]
        with gathering(self, sources) if gather else nullcontext():
            return super().extract_features(prev_output_tokens, encoder_out, incremental_state)


@register_model("continuous_lstm")
class ContinuousLSTMModel(LSTMModel):
    """Attentional LSTM whose decoder predicts rows of a target table.

    Source: Kumar and Tsvetkov (2019), https://arxiv.org/abs/1812.04616, after Minh-Thang Luong,
    Hieu Pham and Christopher Manning (2015), https://aclanthology.org/D15-1166
    """

    @staticmethod
    def add_args(parser):
        """Add model-specific arguments to the parser."""
        LSTMModel.add_args(parser)
        add_continuous_args(parser)

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance.

        Raises:
            ValueError: a table, criterion or flag that does not fit, named with the remedy.
        """
        check_options(args)
        forget_vectors(args)
        model = super().build_model(args, task)
        attach_output(args, task, model, args.decoder_out_embed_dim, ContinuousLSTMDecoder)
        return model


def _register_architectures():
    for name in ("lstm", "lstm_wiseman_iwslt_de_en", "lstm_luong_wmt_en_de"):
        configure = ARCH_CONFIG_REGISTRY[name]
        # "continuous_lstm" itself and fairseq's named sizes
        register_model_architecture("continuous_lstm", f"continuous_{name}")(configure)


_register_architectures()


@register_model_architecture("continuous_lstm", "continuous_lstm_kumar2019")
def kumar2019(args):
    """Sizes after Kumar and Tsvetkov (2019): hidden states of 1024, input embeddings of 512.

    Theirs is a bidirectional encoder and a decoder of two layers; fairseq's LSTM has as many
    encoder layers as decoder layers, so there are two of each here.
    """
    args.dropout = getattr(args, "dropout", 0.2)
    args.encoder_embed_dim = getattr(args, "encoder_embed_dim", 512)
    args.encoder_hidden_size = getattr(args, "encoder_hidden_size", 512)  # per direction
    args.encoder_bidirectional = getattr(args, "encoder_bidirectional", True)
    args.encoder_layers = getattr(args, "encoder_layers", 2)
    args.decoder_embed_dim = getattr(args, "decoder_embed_dim", 512)
    args.decoder_hidden_size = getattr(args, "decoder_hidden_size", 1024)
    args.decoder_layers = getattr(args, "decoder_layers", 2)
    args.decoder_out_embed_dim = getattr(args, "decoder_out_embed_dim", 1024)
    ARCH_CONFIG_REGISTRY["lstm"](args)
