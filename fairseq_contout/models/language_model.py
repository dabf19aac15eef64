"""``continuous_transformer_lm``, ``continuous_lstm_lm``: fairseq's language models, no softmax.

They are trained with fairseq's own task ``language_modeling``, and any criterion on embeddings.
"""

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.lstm_lm import LSTMLanguageModel
from fairseq.models.transformer import TransformerDecoder
from fairseq.models.transformer_lm import (
    TransformerLanguageModel,
    TransformerLanguageModelConfig,
    base_lm_architecture,
)
from fairseq.tasks.masked_lm import MaskedLMTask

from fairseq_contout.models.build import attach_output, forget_vectors
from fairseq_contout.models.continuous_output import ContinuousDecoder
from fairseq_contout.models.lstm import ContinuousLSTMDecoder
from fairseq_contout.models.option_checks import check_options
from fairseq_contout.models.options import add_continuous_args
from fairseq_contout.models.shortlist_embedding import add_input_args, read_fewer_words
from fairseq_contout.symbols import without_beginning

#: Options of --character-embeddings.
_CHARACTERS = ("character_filters", "character_embedding_dim", "char_embedder_highway_layers")


class ContinuousTransformerLMDecoder(ContinuousDecoder, TransformerDecoder):
    """fairseq's Transformer decoder for a namespace of options, without a softmax."""


def _given(args, option: str) -> bool:
    return bool(getattr(args, option, None))


def _check_language_model(args, task):
    """Check options of a language model.

    Raises:
        ValueError: a task of masked models; options that need an encoder, another embedding or
            a softmax.
    """
    if isinstance(task, MaskedLMTask):
        raise ValueError(
            "--task masked_lm hides words of a text that is read as a whole, but this model reads "
            "it word by word; give --task language_modeling, or --arch continuous_masked_lm"
        )
    if getattr(args, "decoder_input", None) == "encoder":
        raise ValueError(
            "--decoder-input encoder reads the embeddings of an encoder, but a language model has "
            "none; leave it out, or give --decoder-input table"
        )
    for option in ("adaptive_softmax_cutoff", "tie_adaptive_weights"):
        if _given(args, option):
            raise ValueError(
                f"--{option.replace('_', '-')} shapes a softmax, but a continuous output has none; "
                "leave it out"
            )
    special = [name for name in ("adaptive_input", "character_embeddings") if _given(args, name)]
    others = ("share_decoder_input_output_embed", "input_words", "decoder_input")
    if special and any(_given(args, name) for name in others):
        raise ValueError(
            "--share-decoder-input-output-embed, --input-words and --decoder-input need one vector "
            f"for each word, which --{special[0].replace('_', '-')} has not; leave one of them out"
        )
    trained, asked = _given(args, "backward"), _given(getattr(task, "args", None), "backward")
    if trained != asked:
        raise ValueError(
            f"the model reads text {'backward' if trained else 'forward'}, but the task gives it "
            f"{'backward' if asked else 'forward'}; "
            + (
                "add --task continuous_language_modeling --backward"
                if trained
                else "leave --backward out"
            )
        )
    if task.target_dictionary is not task.source_dictionary:
        raise ValueError(
            "--output-dictionary-size cuts the target dictionary, but the rows of a table belong "
            "to all of its words; leave it out (--input-words limits the words that are read)"
        )
    check_options(args)
    forget_vectors(args)


class _ContinuousLanguageModel:
    """Mixin that gives a language model of fairseq a continuous output: put it before its class.

    Attributes:
        decoder_class: of the decoder with the output.
        feature_option: the option that says the dimension of the decoder's features.
    """

    decoder_class, feature_option = None, None

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance.

        Raises:
            ValueError: a table, criterion or flag that does not fit, named with the remedy.
        """
        _check_language_model(args, task)
        model = super().build_model(args, task)
        read_fewer_words(args, task.source_dictionary, model.decoder)
        feature_dim = getattr(args, cls.feature_option)
        attach_output(args, task, model, feature_dim, cls.decoder_class)
        return model

    def get_targets(self, sample, net_output):
        """Return the tokens to predict, padding elsewhere: ``(B, T)``.

        The ``<s>`` that ``--add-bos-token`` puts before a block is read, never predicted.
        """
        target = super().get_targets(sample, net_output)
        return without_beginning(target, self.decoder.dictionary)


@register_model("continuous_transformer_lm")
class ContinuousTransformerLanguageModel(_ContinuousLanguageModel, TransformerLanguageModel):
    """Transformer language model whose decoder predicts rows of a target table.

    All options of fairseq's ``transformer_lm`` work, but those that shape a softmax.
    """

    decoder_class, feature_option = ContinuousTransformerLMDecoder, "decoder_output_dim"

    @classmethod
    def hub_models(cls):
        return {}  # none published: the parent's archives hold softmax models

    @classmethod
    def add_args(cls, parser):
        """Add model-specific arguments to the parser."""
        gen_parser_from_dataclass(parser, TransformerLanguageModelConfig(), delete_default=True)
        add_continuous_args(parser)
        add_input_args(parser)

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance, as the mixin does."""
        for name in _CHARACTERS:  # fairseq's architecture functions leave these out
            if getattr(args, name, None) is None:
                setattr(args, name, getattr(TransformerLanguageModelConfig, name))
        return super().build_model(args, task)


@register_model("continuous_lstm_lm")
class ContinuousLSTMLanguageModel(_ContinuousLanguageModel, LSTMLanguageModel):
    """LSTM language model whose decoder predicts rows of a target table.

    All options of fairseq's ``lstm_lm`` work, but those that shape a softmax.

    Source: Li et al. (2019), Efficient Contextual Representation Learning With Continuous Outputs,
    https://aclanthology.org/Q19-1039
    """

    decoder_class, feature_option = ContinuousLSTMDecoder, "decoder_out_embed_dim"

    @staticmethod
    def add_args(parser):
        """Add model-specific arguments to the parser."""
        LSTMLanguageModel.add_args(parser)
        add_continuous_args(parser)
        add_input_args(parser)


#: fairseq's sizes without an adaptive softmax
_TRANSFORMERS = ("big", "gpt", "gpt2_tiny", "gpt2_small", "gpt2_medium", "gpt2_big")


def _register_architectures():
    name = "continuous_transformer_lm"
    register_model_architecture(name, name)(base_lm_architecture)
    for size in _TRANSFORMERS:
        configure = ARCH_CONFIG_REGISTRY[f"transformer_lm_{size}"]
        register_model_architecture(name, f"{name}_{size}")(configure)

    @register_model_architecture("continuous_lstm_lm", "continuous_lstm_lm")
    def lstm_lm(args):
        # fairseq has a cutoff by default, which counts with --criterion adaptive_loss alone
        given = getattr(args, "adaptive_softmax_cutoff", None)
        ARCH_CONFIG_REGISTRY["lstm_lm"](args)
        args.adaptive_softmax_cutoff = given


_register_architectures()
