"""``continuous_transformer``: fairseq's Transformer with a continuous output."""

from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.transformer import TransformerDecoderBase, TransformerModel

from fairseq_contout.models.build import attach_output, forget_vectors
from fairseq_contout.models.continuous_output import ContinuousDecoder
from fairseq_contout.models.lexical import WithLexicalShortcut, add_lexical_args
from fairseq_contout.models.option_checks import check_options
from fairseq_contout.models.options import add_continuous_args
from fairseq_contout.models.pretrained import add_pretrained_args, load_pretrained


class ContinuousTransformerDecoder(ContinuousDecoder, WithLexicalShortcut, TransformerDecoderBase):
    """fairseq's Transformer decoder without a softmax."""

    def build_output_projection(self, cfg, dictionary, embed_tokens):
        # nothing of the vocabulary's size is ever made; the model attaches the output
        if cfg.adaptive_softmax_cutoff is not None:
            raise ValueError(
                "--adaptive-softmax-cutoff shapes a softmax, but a continuous output has none; "
                "leave it out"
            )


@register_model("continuous_transformer")
class ContinuousTransformerModel(TransformerModel):
    """Transformer whose decoder predicts rows of a target table.

    All options of fairseq's ``transformer`` work, but those that shape a softmax.
    """

    @classmethod
    def hub_models(cls):
        return {}  # none published: the parent's archives hold softmax models

    @classmethod
    def add_args(cls, parser):
        """Add model-specific arguments to the parser."""
        super().add_args(parser)
        add_continuous_args(parser)
        add_pretrained_args(parser)
        add_lexical_args(parser)

    @classmethod
    def build_decoder(cls, cfg, tgt_dict, embed_tokens):
        return ContinuousTransformerDecoder(
            cfg, tgt_dict, embed_tokens, no_encoder_attn=cfg.no_cross_attention
        )

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance.

        Raises:
            ValueError: a table, criterion or flag that does not fit, named with the remedy.
        """
        check_options(args)
        forget_vectors(args)
        model = super().build_model(args, task)
        load_pretrained(args, model)  # first: a table may be tied to the embeddings
        attach_output(args, task, model, model.decoder.output_embed_dim)
        return model


def _register_architectures():
    # every architecture that fairseq has for its Transformer, under the same name
    for name in (
        "transformer",
        "transformer_tiny",
        "transformer_iwslt_de_en",
        "transformer_wmt_en_de",
        "transformer_vaswani_wmt_en_de_big",
        "transformer_vaswani_wmt_en_fr_big",
        "transformer_wmt_en_de_big",
        "transformer_wmt_en_de_big_t2t",
    ):
        configure = ARCH_CONFIG_REGISTRY[name]
        register_model_architecture("continuous_transformer", f"continuous_{name}")(configure)


_register_architectures()
