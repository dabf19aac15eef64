"""Encoder and decoder of a translation model that begin with the layers of a language model."""

import logging
from argparse import Namespace
from typing import Dict, NamedTuple, Optional

import torch
import torch.nn.functional as F
from fairseq import checkpoint_utils
from torch import Tensor, nn

from fairseq_contout.models.fix_norm import reads_directions
from fairseq_contout.models.option_checks import is_tied
from fairseq_contout.symbols import has_mask, signature_hex, signature_words

logger = logging.getLogger(__name__)

#: Where the layers of a language model are: a masked one's, a causal one's.
PARTS = {"encoder": "encoder.sentence_encoder.", "decoder": "decoder."}
#: Options that layers must share although no shape tells them.
_OF_PART = ("attention_heads", "normalize_before")
_OF_MODEL = ("activation_fn", "no_scale_embedding", "no_token_positional_embeddings")
#: What a language model has on top of its layers, and what counts buffers and versions.
_ON_TOP = ("continuous_output.", "output_projection.", "version", "_float_tensor")


def add_pretrained_args(parser):
    """Add the options of pretrained parts to a translation model's parser."""
    for part in ("encoder", "decoder"):
        parser.add_argument(
            f"--pretrained-{part}",
            metavar="FILE.pt",
            help=f"begin with the embeddings and layers of a language model (a checkpoint of "
            f"continuous_masked_lm or continuous_transformer_lm) in the {part}; its sizes, and "
            "the dictionary, must be the same",
        )


def load_pretrained(args, model):
    """Put the layers of language models into a model, as the options say.

    A model that is built from its own checkpoint is left as it is.

    Raises:
        ValueError: a file that is no such checkpoint, of another dictionary or of other sizes; or
            another option says what the same embeddings begin with.
    """
    if getattr(args, "pretrained_used", False):
        return
    paths = {name: getattr(args, f"pretrained_{name}", None) for name in PARTS}
    shared = model.encoder.embed_tokens is model.decoder.embed_tokens
    for name, path in paths.items():
        if path:
            _check_embeddings(args, name, shared)
            part = getattr(model, name)
            _load_part(args, f"--pretrained-{name} {path}", path, name, part)
            if shared and name == "encoder":
                first = part.embed_tokens.weight.detach().clone()
            args.pretrained_used = True  # kept in the checkpoint: decoding needs no other file
    if shared and all(paths.values()) and not torch.equal(first, model.decoder.embed_tokens.weight):
        raise ValueError(
            f"--pretrained-encoder {paths['encoder']} and --pretrained-decoder {paths['decoder']} "
            "have different embeddings, but --share-all-embeddings has one for both; give one file "
            "twice, or leave the sharing out"
        )


def _check_embeddings(args, name: str, shared: bool):
    flag = f"--pretrained-{name} {getattr(args, f'pretrained_{name}')}"
    others = [f"{side}_embed_path" for side in PARTS if shared or side == name]
    tied = shared or getattr(args, "share_decoder_input_output_embed", False)
    if tied and (shared or name == "decoder"):
        others.append("table_init")
    if name == "decoder" and getattr(args, "decoder_input", None) in ("encoder", "table"):
        others.append("decoder_input")
    for option in others:
        value = getattr(args, option, None)
        if value:
            raise ValueError(
                f"{flag} and --{option.replace('_', '-')} {value} both say what the same "
                "embeddings are; leave one of them out"
            )


class Pretrained(NamedTuple):
    """Embeddings and layers of a language model.

    Attributes:
        tensors: under the names that an encoder or decoder has for them.
        signature: that of its dictionary, as a table keeps it; None of a softmax.
        options: those of the model.
        part: whether the layers are those of an encoder or of a decoder.
    """

    tensors: Dict[str, Tensor]
    signature: Optional[Tensor]
    options: Namespace
    part: str


def read_pretrained(flag: str, path) -> Pretrained:
    """Read a language model's checkpoint.

    Raises:
        ValueError: no such file, no checkpoint, or none of such a model.
    """
    try:
        checkpoint = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        state, options = checkpoint["model"], checkpoint["cfg"]["model"]
    except Exception as error:  # torch.load raises whatever the file makes it raise
        raise ValueError(
            f"{flag}: must be a checkpoint of fairseq-train, but {type(error).__name__}: {error}"
        ) from error
    for part, prefix in PARTS.items():
        found = {
            key[len(prefix) :]: value
            for key, value in state.items()
            if key.startswith(prefix) and not any(name in key for name in _ON_TOP)
        }
        if any(key.startswith("layers.0.encoder_attn") for key in found):
            raise ValueError(
                f"{flag}: must be a language model, but its decoder reads an encoder; train one "
                "with --arch continuous_transformer_lm, or go on with --finetune-from-model"
            )
        if any(key.startswith("layers.0.") for key in found):
            if "embed_tokens.weight" not in found:
                raise ValueError(
                    f"{flag}: must have an embedding of each word, but reads the rows of its "
                    "target table (--decoder-input table), characters or adaptive inputs; train a "
                    "language model without these"
                )
            signature = state.get(f"{part}.continuous_output.table._extra_state")
            return Pretrained(found, signature, options, part)
    raise ValueError(
        f"{flag}: must be a language model, but has no layers {' or '.join(PARTS.values())}; train "
        "one with --arch continuous_masked_lm or continuous_transformer_lm"
    )


def _load_part(args, flag: str, path, name: str, part: nn.Module):
    given = read_pretrained(flag, path)
    _check_dictionary(flag, given.signature, part.dictionary)
    found = given.tensors
    own = {
        key: value
        for key, value in part.state_dict().items()
        if not any(other in key for other in _ON_TOP)
    }
    embedding = found["embed_tokens.weight"]
    if getattr(given.options, "input_words", None) and len(embedding) < len(part.dictionary):
        raise ValueError(
            f"{flag}: must have an embedding of each of the {len(part.dictionary)} words, but was "
            f"trained with --input-words {given.options.input_words}; train one without"
        )
    if len(embedding) == len(part.dictionary) + 1:
        embedding = embedding[:-1]  # but that of <mask>
    if is_tied(given.options) and getattr(given.options, "table_lr_scale", None):
        embedding = embedding * given.options.table_lr_scale  # as they are read
    directions = reads_directions(given.options, "decoder")  # it reads what is tied
    if directions:
        embedding = F.normalize(embedding.float(), dim=-1).to(embedding)
    found["embed_tokens.weight"] = embedding
    cross = [key for key in own if "encoder_attn" in key]  # a language model has nothing to read
    problems = []
    for key in sorted((set(own) | set(found)) - set(cross)):
        if key not in found or key not in own:
            problems.append(f"{key} is in the {'model' if key in own else 'file'} alone")
        elif found[key].shape != own[key].shape:
            shapes = tuple(found[key].shape), tuple(own[key].shape)
            problems.append(f"{key} has the shape {shapes[0]}, the model's {shapes[1]}")
    pairs = [(f"{given.part}_{option}", f"{name}_{option}") for option in _OF_PART]
    for theirs, ours in [*pairs, *zip(_OF_MODEL, _OF_MODEL)]:
        before, now = getattr(given.options, theirs, None), getattr(args, ours, None)
        if before != now:
            problems.append(f"{theirs} was {before}, and {ours} is {now}")
    if reads_directions(args, name) and not directions:
        problems.append("fix_norm would read its embeddings as if all were of norm 1")
    if problems:
        more = f" (and {len(problems) - 3} more)" if len(problems) > 3 else ""
        raise ValueError(
            f"{flag}: its layers must be those of the model, but {'; '.join(problems[:3])}{more}; "
            "give both the same options"
        )
    with torch.no_grad():
        for key, parameter in part.state_dict(keep_vars=True).items():
            if key in found:
                parameter.copy_(found[key])
    logger.info(f"{flag}: {len(found)} tensors loaded, {len(cross)} of cross-attention are new")


def _check_dictionary(flag: str, state, dictionary):
    expected = signature_words(dictionary)
    if state is None:
        raise ValueError(
            f"{flag}: must be a language model of this plugin, whose dictionary is known, but has "
            "no target table; train one with --arch continuous_masked_lm or "
            "continuous_transformer_lm"
        )
    if signature_hex(state[: len(expected)]) != signature_hex(expected):
        size = len(dictionary) - has_mask(dictionary)
        raise ValueError(
            f"{flag}: was trained with another dictionary than the {size} symbols of this side; "
            "binarise the text of the language model with fairseq-preprocess --srcdict "
            "DATA/dict.LANG.txt"
        )
