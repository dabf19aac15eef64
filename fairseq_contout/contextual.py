"""Contextual vectors of words from two language models with continuous outputs, as ELMo has them.

>>> vectors = ContextualVectors.from_checkpoints("forward.pt", "backward.pt", "data-bin")
>>> layers = vectors([["time", "flies"], ["fruit", "flies", "like", "a", "banana"]])
>>> mix = ScalarMix(len(vectors))  # to be trained with the task that uses it
>>> mix(layers[0]).shape
torch.Size([2, 256])

Source: Liunian Harold Li, Patrick Chen, Cho-Jui Hsieh and Kai-Wei Chang (2019), Efficient
Contextual Representation Learning With Continuous Outputs, https://aclanthology.org/Q19-1039;
Matthew Peters et al. (2018), Deep Contextualized Word Representations,
https://aclanthology.org/N18-1202
"""

from typing import List, Sequence

import torch
from fairseq import checkpoint_utils
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence


class ScalarMix(nn.Module):
    """Weighted mean of layers: γ Σ_j softmax(s)_j h_j.

    Layers ``(L, …, d)`` → ``(…, d)``. γ and s are learned; at first γ = 1 and all layers are equal.

    Args:
        layers: L.
        normalize: whether each vector is first brought to mean 0 and variance 1.

    Raises:
        ValueError: another number of layers.
    """

    def __init__(self, layers: int, normalize: bool = False):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(layers))
        self.gamma = nn.Parameter(torch.ones(()))
        self.normalize = normalize

    def forward(self, layers: Tensor) -> Tensor:
        if len(layers) != len(self.weights):
            raise ValueError(
                f"this mix is of {len(self.weights)} layers, but {len(layers)} are given; make it "
                "with ScalarMix(len(vectors))"
            )
        if self.normalize:
            layers = nn.functional.layer_norm(layers, layers.shape[-1:])
        return self.gamma * torch.tensordot(self.weights.softmax(dim=0), layers, dims=1)


class ContextualVectors(nn.Module):
    """Layers of a forward and a backward language model, for each word of a sentence.

    Of word k they are [→h_k; ←h_k]: what the forward model holds when it has read the words up to
    and with k, and the backward model when it has read those from the end to k. Layer 0 are the
    embeddings. ``len()`` is the number of layers, with layer 0.

    Args:
        forward_model: a ``continuous_transformer_lm`` or ``continuous_lstm_lm``.
        backward_model: the same, trained with ``--backward``.
        dictionary: that of both.

    The models stay as they are in evaluation: ``train()`` turns no dropout on in them.

    Raises:
        ValueError: models of different depth.
    """

    def __init__(self, forward_model, backward_model, dictionary):
        super().__init__()
        self.models = nn.ModuleList([forward_model.eval(), backward_model.eval()])
        self.dictionary = dictionary
        depths = [len(model.decoder.layers) for model in self.models]
        if depths[0] != depths[1]:
            raise ValueError(
                f"both models must have as many layers, but they have {depths[0]} and {depths[1]}"
            )
        self.depth = depths[0] + 1

    def __len__(self) -> int:
        return self.depth

    def train(self, mode: bool = True):
        """Set the mode of this module, but not that of its models."""
        super().train(mode)
        self.models.eval()
        return self

    @classmethod
    def from_checkpoints(cls, forward_path, backward_path, data):
        """Load two checkpoints.

        Args:
            forward_path: trained with ``--task language_modeling`` (or its continuous twin).
            backward_path: trained with ``--task continuous_language_modeling --backward``.
            data: the folder with their ``dict.txt``.

        Raises:
            ValueError: models of one direction, of both at once, or of different dictionaries.
        """
        models, dictionaries = [], []
        for path, backward in ((forward_path, False), (backward_path, True)):
            loaded, config, task = checkpoint_utils.load_model_ensemble_and_task(
                [str(path)], arg_overrides={"data": str(data)}
            )
            if bool(getattr(config.task, "backward", False)) != backward:
                raise ValueError(
                    f"{path} must be a {'backward' if backward else 'forward'} model, but was "
                    f"trained {'without' if backward else 'with'} --backward; give the forward "
                    "model first and the backward one second"
                )
            if not hasattr(loaded[0], "decoder") or hasattr(loaded[0], "encoder"):
                raise ValueError(
                    f"{path} must be a model that reads in one direction, but is a "
                    f"{type(loaded[0]).__name__}; give one of --arch continuous_transformer_lm or "
                    "continuous_lstm_lm"
                )
            models.append(loaded[0])
            dictionaries.append(task.source_dictionary)
        return cls(*models, dictionaries[0])

    def forward(self, sentences: Sequence[Sequence[str]]) -> List[Tensor]:
        """Return the layers of each sentence, ``(L, T, 2 d)`` for T words.

        Gradients flow into the models; wrap the call in ``torch.no_grad()`` to keep them fixed.

        Args:
            sentences: words (or subwords), as in the text that the models were trained on; those
                that the dictionary does not know are read as ``<unk>``.

        Raises:
            ValueError: a sentence that is no list of words or longer than the models read, or
                layers of different dimensions.
        """
        if isinstance(sentences, str):
            raise ValueError(
                f"sentences must be a list of lists of words, but are the string {sentences!r}; "
                "give [words] for one sentence"
            )
        sentences = list(sentences)  # an iterator is gone through more than once
        for words in sentences:
            if isinstance(words, str):
                raise ValueError(
                    f"a sentence must be a list of words, but is the string {words!r}; split it as "
                    "the text that the models were trained on"
                )
            for model in self.models:
                positions = getattr(model.decoder, "embed_positions", None)
                # </s> is read before the first word
                if positions is not None and len(words) >= positions.max_positions:
                    raise ValueError(
                        f"a sentence must have fewer words than the model has positions "
                        f"({positions.max_positions}), but has {len(words)}; split it, or train "
                        "with a larger --tokens-per-sample or without --decoder-learned-pos"
                    )
        if not sentences:
            return []
        found = [[self.dictionary.index(word) for word in words] for words in sentences]
        device = next(self.parameters()).device
        tokens = [torch.tensor(words, dtype=torch.long, device=device) for words in found]
        ahead = self._states(self.models[0], tokens)
        back = self._states(self.models[1], [words.flip(0) for words in tokens])
        return [torch.cat((a, b.flip(1)), dim=-1) for a, b in zip(ahead, back)]

    def _states(self, model, tokens: List[Tensor]) -> List[Tensor]:
        eos = self.dictionary.eos()
        begun = [torch.cat((words.new_tensor([eos]), words)) for words in tokens]
        read = pad_sequence(begun, batch_first=True, padding_value=self.dictionary.pad())
        layers = torch.stack(_layers(model.decoder, read))  # L x B x T x d
        return [layers[:, i, 1 : len(words)] for i, words in enumerate(begun)]


def _layers(decoder, tokens: Tensor) -> List[Tensor]:
    """Return embeddings and layers, L of ``(B, T, d)``."""
    if hasattr(decoder, "embed_scale"):  # a Transformer
        _, extra = decoder.extract_features(tokens, encoder_out=None)
        return [state.transpose(0, 1) for state in extra["inner_states"]]
    steps: List[List[Tensor]] = [[] for _ in decoder.layers]
    hooks = [
        layer.register_forward_hook(lambda module, given, found, own=own: own.append(found[0]))
        for layer, own in zip(decoder.layers, steps)
    ]
    try:  # fairseq's LSTM gives its last layer alone: the cells are called once for each step
        decoder.extract_features(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    states = [decoder.embed_tokens(tokens), *(torch.stack(own, dim=1) for own in steps)]
    sizes = {state.size(-1) for state in states}
    if len(sizes) > 1:
        raise ValueError(
            "layers that are mixed need one dimension, but the embeddings and hidden states have "
            f"{sorted(sizes)}; train with --decoder-embed-dim equal to --decoder-hidden-size"
        )
    return states
