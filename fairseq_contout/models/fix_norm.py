"""FixNorm: embeddings that share a learned table's parameter are read as its rows, of norm 1.

The rows of a learned table are directions, so the loss pulls a parameter across its direction
alone, and each step makes it a little longer. Who reads the parameter as an embedding then sees
words that grow against their positions, the more so the longer a training is.

Source: Toan Q. Nguyen and David Chiang (2018), Improving Lexical Choice in Neural Machine
Translation, https://aclanthology.org/N18-1031; for what the Transformer reads, Toan Q. Nguyen and
Julian Salazar (2019), Transformers without Tears, https://aclanthology.org/2019.iwslt-1.17
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_contout.models.option_checks import is_tied


class UnitEmbedding(nn.Embedding):
    """Embedding whose vectors are the directions of its parameter's rows.

    Token indices ``(…)`` → ``(…, d)``, E_w / ‖E_w‖; a row of 0, as padding's, stays 0.
    """

    def forward(self, tokens: Tensor) -> Tensor:
        rows = super().forward(tokens)
        if rows.dtype not in (torch.float16, torch.bfloat16):
            return F.normalize(rows, dim=-1)
        # the bound of F.normalize's norms is 0 in float16: padding would be divided by it
        return F.normalize(rows.float(), dim=-1).to(rows.dtype)


def reads_directions(args, part: str) -> bool:
    """Return whether a part of a model, ``encoder`` or ``decoder``, reads rows of norm 1."""
    if not getattr(args, "fix_norm", None):
        return False
    return is_tied(args) if part == "decoder" else getattr(args, "share_all_embeddings", False)


def fix_norms(args, model, reader):
    """Let the readers of a tied table read its rows, as ``--fix-norm`` says.

    Args:
        args: the model's options.
        model: fairseq's model.
        reader: the module whose ``embed_tokens`` the table is; with ``--share-all-embeddings`` the
            encoder has the same.

    Raises:
        ValueError: nothing is tied to the table, or what is read is no plain embedding.
    """
    if not getattr(args, "fix_norm", None):
        return
    if not is_tied(args):
        other = getattr(args, "decoder_input", None)
        raise ValueError(
            "--fix-norm says how embeddings are read that a learned table is tied to, but none "
            "are; give --share-decoder-input-output-embed or --share-all-embeddings"
            f"{f' in place of --decoder-input {other}' if other else ''}, or leave it out"
        )
    embedding = reader.embed_tokens
    if type(embedding) is not nn.Embedding:
        raise ValueError(
            f"--fix-norm needs an embedding of each word, but {type(model).__name__} reads "
            f"{type(embedding).__name__}; leave it out"
        )
    embedding.__class__ = UnitEmbedding
