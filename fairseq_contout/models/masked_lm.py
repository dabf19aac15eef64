"""``continuous_masked_lm``: fairseq's RoBERTa that predicts the vectors of masked words."""

from fairseq.models import ARCH_CONFIG_REGISTRY, register_model, register_model_architecture
from fairseq.models.roberta import RobertaEncoder, RobertaHubInterface, RobertaModel
from fairseq.tasks.language_modeling import LanguageModelingTask
from torch import Tensor, nn

from fairseq_contout.models.build import build_output, forget_vectors
from fairseq_contout.models.continuous_output import ContinuousOutput
from fairseq_contout.models.freezing import freeze_parts
from fairseq_contout.models.option_checks import check_options
from fairseq_contout.models.options import LEARNED, add_continuous_args
from fairseq_contout.models.shortlist_embedding import add_input_args, read_fewer_words
from fairseq_contout.scores import finite
from fairseq_contout.symbols import without_beginning


class ContinuousMaskedLMEncoder(RobertaEncoder):
    """RoBERTa's encoder without a softmax: features ``(B, T, f)`` → predictions ``(B, T, d)``."""

    def attach(self, output: ContinuousOutput):
        """Put the output on top of the layers that come before the vocabulary in RoBERTa's head."""
        head = self.lm_head
        self.lm_head = nn.ModuleDict({"dense": head.dense, "layer_norm": head.layer_norm})
        self.activation = head.activation_fn
        self.continuous_output = output

    def output_layer(self, features: Tensor, masked_tokens=None, **unused) -> Tensor:
        """Predict vectors, of all tokens or of those that ``masked_tokens`` ``(B, T)`` tells."""
        if masked_tokens is not None:
            features = features[masked_tokens, :]
        features = self.activation(self.lm_head["dense"](features))
        return self.continuous_output(self.lm_head["layer_norm"](features))


def _check_ties(args):
    """Check what a table that is tied, or is not, goes together with.

    Raises:
        ValueError: names RoBERTa's own flags.
    """
    tied = args.share_decoder_input_output_embed
    dim, embed_dim = getattr(args, "table_dim", None), args.encoder_embed_dim
    if tied and dim not in (None, embed_dim):
        raise ValueError(
            f"--table-dim {dim} must be --encoder-embed-dim ({embed_dim}), since a learned table "
            "is tied to the embeddings; leave it out, or give --untie-weights-roberta"
        )
    if tied and getattr(args, "input_words", None):
        raise ValueError(
            f"--input-words {args.input_words} embeds fewer words than are predicted, but a "
            "learned table is tied to the embeddings; give --untie-weights-roberta, or leave it out"
        )
    for option in ("table_ema", "stop_gradient_targets"):
        if getattr(args, option, None) and not tied:
            raise ValueError(
                f"with --{option.replace('_', '-')} a table learns as the model's input alone; "
                "give --target-table learned, and leave --untie-weights-roberta out"
            )
    if getattr(args, "fix_norm", None) and not tied:
        raise ValueError(
            "--fix-norm says how embeddings are read that a learned table is tied to, but none "
            "are; give --target-table learned, and leave --untie-weights-roberta out"
        )


class ContinuousHubInterface(RobertaHubInterface):
    """What ``from_pretrained`` returns: RoBERTa's interface to features and encoding."""

    def fill_mask(self, masked_input, topk=5):
        """Refuse: RoBERTa's code takes a model's output for logits.

        Raises:
            ValueError: always, with what to call.
        """
        raise ValueError(
            "fill_mask takes what a model returns for the logits of words, but this one returns "
            "vectors; call model.get_normalized_probs(model(tokens), log_probs=True)"
        )


@register_model("continuous_masked_lm")
class ContinuousMaskedLanguageModel(RobertaModel):
    """Masked language model (BERT's masking, fairseq's task ``masked_lm``) over a target table.

    All options of fairseq's ``roberta`` work. A learned table is tied to the input embeddings,
    unless ``--untie-weights-roberta``. With ``--input-words`` and a table of more words a word that
    the input does not know still is a target. With ``--criterion cosine`` or ``l2`` and a frozen
    table the objective is spaCy's.

    Source: spaCy's "approximate-output" pretraining, https://spacy.io/usage/embeddings-transformers
    #pretraining-objectives, after Yinhan Liu et al. (2019), RoBERTa,
    https://arxiv.org/abs/1907.11692
    """

    @classmethod
    def hub_models(cls):
        return {}  # none published: the parent's archives hold softmax models

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Load a checkpoint: :class:`ContinuousHubInterface`, arguments as RoBERTa's."""
        hub = super().from_pretrained(*args, **kwargs)
        hub.__class__ = ContinuousHubInterface
        return hub

    @staticmethod
    def add_args(parser):
        """Add model-specific arguments to the parser."""
        RobertaModel.add_args(parser)
        add_continuous_args(parser)
        add_input_args(parser)

    @classmethod
    def build_model(cls, args, task):
        """Build a new model instance.

        Raises:
            ValueError: a table, criterion or flag that does not fit, named with the remedy.
        """
        if isinstance(task, LanguageModelingTask):
            raise ValueError(
                "--task language_modeling asks for the next word, but this model reads the whole "
                "text; give --task masked_lm, or --arch continuous_transformer_lm"
            )
        if getattr(args, "decoder_input", None):
            raise ValueError(
                f"--decoder-input {args.decoder_input} says what a decoder reads, but a masked "
                "language model has none; leave it out"
            )
        # RoBERTa's way to say what the flag of the decoders says
        learned = getattr(args, "target_table", None) == LEARNED
        args.share_decoder_input_output_embed = learned and not args.untie_weights_roberta
        _check_ties(args)
        check_options(args)
        forget_vectors(args)
        untied, args.untie_weights_roberta = args.untie_weights_roberta, False
        model = super().build_model(args, task)  # tied: makes no second matrix of the vocabulary
        args.untie_weights_roberta = untied
        encoder = model.encoder
        reader = encoder.sentence_encoder
        read_fewer_words(args, task.source_dictionary, reader)
        output = build_output(args, task, model, args.encoder_embed_dim, reader)
        # RobertaModel makes its encoder without a hook: the class is changed afterwards
        encoder.__class__ = ContinuousMaskedLMEncoder
        encoder.attach(output)
        freeze_parts(args, model)
        return model

    def get_targets(self, sample, net_output):
        """Return the masked tokens, padding elsewhere: ``(B, T)``.

        fairseq also masks the ``<s>`` that begins every block, which no model should have to say.
        """
        target = super().get_targets(sample, net_output)
        return without_beginning(target, self.encoder.dictionary)

    def get_normalized_probs(self, net_output, log_probs, sample=None):
        """Return (log-)probabilities over the dictionary, ``(B, T, V)``.

        Raises:
            ValueError: predictions that are not finite.
        """
        predicted = net_output[0]
        table = self.encoder.continuous_output.table
        scored = table.log_probs(finite(predicted.reshape(-1, predicted.size(-1))))
        scored = scored.view(*predicted.shape[:-1], -1)
        return scored if log_probs else scored.exp()


def _register_architectures():
    name = "continuous_masked_lm"
    for arch, continuous in (
        ("roberta", name),
        ("roberta_base", f"{name}_base"),
        ("roberta_large", f"{name}_large"),
        ("roberta_prenorm", f"{name}_prenorm"),
    ):
        register_model_architecture(name, continuous)(ARCH_CONFIG_REGISTRY[arch])


_register_architectures()
