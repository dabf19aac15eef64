"""``syn_margin``: the synthetic negative that its option names."""

import pytest
import torch
from factory import make_criterion, make_dictionary, make_model
from torch.nn.functional import cosine_similarity, normalize


@pytest.mark.parametrize("kind", ["projection", "difference"])
def test_the_negative_is_the_one_that_is_asked_for(tmp_path, kind):
    dictionary = make_dictionary()
    table = make_model(tmp_path, dictionary, "syn_margin").decoder.continuous_output.table
    hidden, tokens = torch.randn(9, 8), torch.randint(2, 24, (9,))
    criterion = make_criterion("syn_margin", dictionary, synthetic_negative=kind)
    target = table.weight[tokens]
    if kind == "projection":  # the part of h that is orthogonal to the target
        made = hidden - (hidden * target).sum(dim=1, keepdim=True) * target
    else:
        made = normalize(hidden, dim=1) - target
    made = normalize(made, dim=1)
    gap = cosine_similarity(hidden, made, dim=1) - cosine_similarity(hidden, target, dim=1)
    torch.testing.assert_close(
        criterion.token_losses(hidden, tokens, table), (1.5 + gap).clamp(min=0), rtol=0, atol=1e-5
    )
