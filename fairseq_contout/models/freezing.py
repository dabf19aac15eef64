"""Parts of a model that a training leaves as they are."""

from torch import nn


def freeze_parts(args, model: nn.Module):
    """Let the parameters of the parts of ``--freeze`` stay as they are.

    A part is a name in the model with all that is below it: ``encoder``, ``decoder.layers``,
    ``decoder.layers.0``. A parameter that parts share stays as it is in all of them.

    Args:
        args: the model's options.
        model: fairseq's model, complete.

    Raises:
        ValueError: a part that the model does not have, or nothing is left to train.
    """
    given = getattr(args, "freeze", None)
    if not given:
        return
    named = list(model.named_parameters(remove_duplicate=False))
    for part in given.split(","):
        found = [value for name, value in named if f"{name}.".startswith(f"{part}.")]
        if not part or not found:
            split = [name.split(".") for name, _ in named]
            parts = dict.fromkeys(".".join(name[:depth]) for depth in (1, 2) for name in split)
            raise ValueError(
                f"--freeze {given}: must name parts of the model with commas between them, but "
                f"{part!r} has no parameters; its parts are {', '.join(parts)}, …"
            )
        for value in found:
            value.requires_grad_(False)
    if not any(value.requires_grad for _, value in named):
        raise ValueError(
            f"--freeze {given}: must leave something to train, but does not; take less"
        )
