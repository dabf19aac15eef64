"""Workarounds for versions of torch and fairseq, each with its reason and its end of life."""

import argparse
import types
from unittest import mock

import numpy as np
import torch


def _allow_what_checkpoints_hold():
    # torch >= 2.6 loads checkpoints with weights_only=True, which refuses two things of fairseq's:
    # argparse.Namespace, which holds a model's arguments, and the numpy arrays and numbers of some
    # meters (--eval-bleu). They hold data and call nothing, so they are safe to allow; switching
    # weights_only off would let a checkpoint run code.
    # https://github.com/pytorch/pytorch/pull/137602
    # Until: fairseq stores plain dicts and floats.
    if not hasattr(torch.serialization, "add_safe_globals"):
        return
    rebuild, arguments = np.empty(0).__reduce__()[:2]
    number = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}
    allowed = [argparse.Namespace, rebuild, arguments[0], np.dtype, number, *kinds]
    torch.serialization.add_safe_globals(allowed)


def _disable_encoder_fastpath():
    # fairseq 0.12.2 hands post-norm encoder layers to torch's fused kernel at inference with a
    # mask it does not take: "Mask Type should be defined" on torch >= 1.13.
    # https://github.com/facebookresearch/fairseq/issues/4899
    # Until: Python <= 3.10, and with it fairseq 0.12.2, is no longer supported.
    from importlib.metadata import PackageNotFoundError, version

    try:
        affected = version("fairseq") == "0.12.2"
    except PackageNotFoundError:  # fairseq-fixed, or a source tree: newer
        affected = False
    if not affected:
        return
    from fairseq.modules.transformer_layer import TransformerEncoderLayerBase

    original = TransformerEncoderLayerBase.__init__

    def init(self, *args, **kwargs):
        original(self, *args, **kwargs)
        self.can_use_fastpath = False

    TransformerEncoderLayerBase.__init__ = init


def _keep_numpy_long():
    # fairseq's language modelling asks for np.compat.long, which numpy 2 no longer has.
    # https://numpy.org/doc/stable/release/2.0.0-notes.html
    # Until: fairseq says np.int64.
    if not hasattr(np, "compat"):
        np.compat = types.SimpleNamespace(long=np.int64)


def _block_repeated_ngrams():
    # fairseq hands its whole buffer of tokens to the code for --no-repeat-ngram-size, which
    # without a CUDA extension compares the padding at the buffer's end: nothing is ever blocked.
    # https://github.com/facebookresearch/fairseq/issues/5206
    # A token that --prefix-size forces is the only one left: blocking it would leave none.
    # Until: fairseq cuts the buffer at the current step.
    from fairseq.ngram_repeat_block import NGramRepeatBlock

    original = NGramRepeatBlock._no_repeat_ngram

    def block(self, tokens, lprobs, bsz, beam_size, step):
        forced = lprobs.isfinite().sum(dim=-1, keepdim=True).le(1)
        before = lprobs.clone() if forced.any() else lprobs  # original writes into its argument
        blocked = original(self, tokens[:, : step + 1], lprobs, bsz, beam_size, step)
        return torch.where(forced, before, blocked)

    NGramRepeatBlock._no_repeat_ngram = block


def _replace_unknown_words():
    # fairseq's alignments are pairs (source, target), but --replace-unk takes them for a list of
    # source positions, one for each target word: TypeError. Without --print-alignment there is no
    # alignment at all: IndexError. And --replace-unk without a file takes "@@ " for the file.
    # https://github.com/facebookresearch/fairseq/issues/3533
    # Until: fairseq looks up pairs.
    from fairseq import utils

    original, load = utils.replace_unk, utils.load_align_dict

    def replace_unk(hypo_str, src_str, alignment, align_dict, unk):
        pairs = [pair for pair in alignment if isinstance(pair, tuple)]
        sources = {target: source for source, target in pairs}
        for position, word in enumerate(hypo_str.split()):
            if word == unk and position not in sources:
                raise ValueError(
                    f"--replace-unk needs a source word for each {unk}, but there is no alignment; "
                    "add --print-alignment hard"
                )
        return original(hypo_str, src_str, sources, align_dict, unk)

    utils.replace_unk = replace_unk
    utils.load_align_dict = lambda file: load("" if file == "@@ " else file)


def _allow_processes_without_a_gpu():
    # fairseq takes a process's rank modulo the number of GPUs for its device, which divides by 0
    # where there is none, and tells torch's DDP a device also for a model on the CPU: ValueError.
    # No issue is known.
    # Until: fairseq trains with several processes on CPUs.
    from fairseq.distributed import utils
    from fairseq.models import distributed_fairseq_model as wrapping
    from torch.nn.parallel import DistributedDataParallel

    infer, wrap = utils._infer_torch_distributed_launch_init, wrapping.DistributedDataParallel

    def infer_launch(cfg):
        if torch.cuda.is_available():
            return infer(cfg)
        with mock.patch.object(torch.cuda, "device_count", return_value=1):  # device 0, unused
            return infer(cfg)

    def wrap_model(module, **options):
        # Sparse gradients are the optimizer's to gather (optim/sparse.py), under every name that
        # a shared parameter has.
        named = module.named_parameters(remove_duplicate=False)
        ignored = [name for name, value in named if getattr(value, "sparse_gradients", False)]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, ignored)
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            options.update(device_ids=None, output_device=None)
        return wrap(module=module, **options)

    utils._infer_torch_distributed_launch_init = infer_launch
    wrapping.DistributedDataParallel = wrap_model


def apply():
    """Apply every workaround once, at import."""
    _allow_what_checkpoints_hold()
    _disable_encoder_fastpath()
    _keep_numpy_long()
    _block_repeated_ngrams()
    _replace_unknown_words()
    _allow_processes_without_a_gpu()
