"""Recurrent steps whose weights get their gradient from all steps in one product.

Backpropagation through time adds gᵀ x to the gradient of a weight at every step: with few sentences
and large weights much of that time goes into reading and writing the sum. Here the steps keep their
x and g, and the gradient is [g₁; …; g_T]ᵀ [x₁; …; x_T], which is the same sum.
"""

from contextlib import ExitStack, contextmanager
from typing import List, Optional

import torch
from fairseq.models.lstm import AttentionLayer
from torch import Tensor, nn


class _Gather(torch.autograd.Function):
    """Stands for a weight in a recurrence, and gives it its gradient when all steps have theirs.

    Beside the weight there is a number, whose gradient is how many steps a backward pass had: one
    that did not come here has left steps behind, which are not to be counted again.
    """

    @staticmethod
    def forward(ctx, weight, steps):
        ctx.steps = steps
        ctx.set_materialize_grads(False)
        return weight.view_as(weight), weight.new_zeros((), dtype=torch.float64)

    @staticmethod
    def backward(ctx, gradient, count):
        if count is not None:
            own = ctx.steps[-int(count) :]
            ctx.steps.clear()
            inputs, gradients = (torch.cat(part, dim=-2) for part in zip(*own))
            total = gradients.transpose(-1, -2) @ inputs
            gradient = total if gradient is None else gradient + total
        return gradient, None


class _Step(torch.autograd.Function):
    """x Wᵀ, which leaves the gradient of W to the weight's :class:`_Gather`.

    Where gradients are to be differentiated (``create_graph``) each step has its own.
    """

    @staticmethod
    def forward(ctx, inputs, weight, count, steps):
        ctx.save_for_backward(inputs, weight)
        ctx.steps = steps
        return inputs @ weight.transpose(-1, -2)

    @staticmethod
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        gradient = gradient.to(weight)  # under autocast products have fewer bits
        back = (gradient @ weight).to(inputs) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return back, None, None, None
        inputs = inputs.to(weight)
        if torch.is_grad_enabled():
            return back, gradient.transpose(-1, -2) @ inputs, None, None
        ctx.steps.append((inputs.detach(), gradient))  # without the graph, which holds the list
        return back, None, gradient.new_ones((), dtype=torch.float64), None


class GatheredWeight:
    """A weight W ``(…, m, n)`` that is multiplied with at every step of a recurrence.

    ``weight(x)`` is x Wᵀ, ``(…, N, n)`` → ``(…, N, m)``. Gradients are those of that product, but
    that of W is computed once, after the last step's. Backward passes may come again, or be
    differentiated, as those of the product. An object is for one forward.

    Args:
        weight: W, a parameter or what the model has computed.
    """

    def __init__(self, weight: Tensor):
        self._steps: List = []
        self._weight, self._count = _Gather.apply(weight, self._steps)

    def __call__(self, inputs: Tensor) -> Tensor:
        return _Step.apply(inputs, self._weight, self._count, self._steps)


class GatheringLSTMCell(nn.LSTMCell):
    """:class:`torch.nn.LSTMCell`, whose weights get one gradient for all steps of :meth:`gather`.

    Parameters, their names and results are those of the parent, up to rounding.
    """

    _weight = None

    @contextmanager
    def gather(self):
        """Multiply with both weights at once in the meantime, and gather their gradients."""
        self._weight = GatheredWeight(torch.cat((self.weight_ih, self.weight_hh), dim=1))
        self._bias = self.bias_ih + self.bias_hh
        try:
            yield
        finally:
            del self._weight, self._bias

    def forward(self, inputs: Tensor, state=None):
        """Make a step, as the parent does."""
        if self._weight is None:
            return super().forward(inputs, state)
        hidden, cell = state
        gates = self._weight(torch.cat((inputs, hidden), dim=1)) + self._bias
        write, keep, new, read = gates.chunk(4, dim=1)
        cell = keep.sigmoid() * cell + write.sigmoid() * new.tanh()
        return read.sigmoid() * cell.tanh(), cell


class GatheringAttention(AttentionLayer):
    """fairseq's attention of an LSTM, gathering as :class:`GatheringLSTMCell` does.

    Its weights are the two projections, and the encoder's states, which each step reads twice.
    """

    _scores = None

    @contextmanager
    def gather(self, sources: Tensor):
        """Attend to these states of the encoder in the meantime, ``(S, B, d)``."""
        sources = sources.transpose(0, 1)  # B x S x d
        self._query = GatheredWeight(self.input_proj.weight)
        self._scores = GatheredWeight(sources)
        self._context = GatheredWeight(sources.transpose(1, 2))
        self._output = GatheredWeight(self.output_proj.weight)
        try:
            yield
        finally:
            del self._query, self._scores, self._context, self._output

    def forward(self, input, source_hids, encoder_padding_mask):
        """Attend with states ``(B, d)``: outputs ``(B, d)`` and weights ``(S, B)``."""
        if self._scores is None:
            return super().forward(input, source_hids, encoder_padding_mask)
        scores = self._scores(self._query(input).unsqueeze(1))  # B x 1 x S
        if encoder_padding_mask is not None:
            scores = scores.masked_fill(encoder_padding_mask.t().unsqueeze(1), -torch.inf)
        weights = scores.softmax(dim=2)
        context = self._context(weights).squeeze(1)
        output = self._output(torch.cat((context, input), dim=1)).tanh()
        return output, weights.squeeze(1).t()


@contextmanager
def gathering(decoder, sources: Optional[Tensor] = None):
    """Let an LSTM decoder with this module's parts gather the gradients of a forward.

    Args:
        decoder: whose parts :func:`gather_in` has exchanged.
        sources: states of the encoder, ``(S, B, d)``; None for a language model.
    """
    with ExitStack() as stack:
        for cell in decoder.layers:
            stack.enter_context(cell.gather())
        if decoder.attention is not None:
            stack.enter_context(decoder.attention.gather(sources))
        yield


def gather_in(decoder):
    """Exchange the cells and the attention of fairseq's LSTM decoder for those of this module."""
    for cell in decoder.layers:
        cell.__class__ = GatheringLSTMCell
    if decoder.attention is not None:
        decoder.attention.__class__ = GatheringAttention
