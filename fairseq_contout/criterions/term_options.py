"""Options of the terms that a criterion on embeddings is, or can add to its loss."""

from dataclasses import dataclass, field

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

#: Bounds of the learned scale: below, nothing is told apart; above, gradients explode.
SCALE_RANGE = (0.5, 200.0)


@dataclass
class TermsConfig(FairseqDataclass):
    """Options of the terms, which every criterion on embeddings has."""

    contrastive_weight: float = field(
        default=0.0,
        metadata={"help": "add this times the contrastive loss, >= 0; 0 leaves it out"},
    )
    sampled_negatives: int = field(
        default=1024,
        metadata={
            "help": "contrastive: rows drawn for each batch to compare with, beside the distinct "
            "target tokens of the batch, >= 0"
        },
    )
    max_candidates: int = field(
        default=0,
        metadata={
            "help": "contrastive: compare with no more rows than this, drawn from the candidates "
            "of a batch, > 1, so that large batches do not cost more a token; 0 takes all"
        },
    )
    negative_power: float = field(
        default=0.0,
        metadata={
            "help": "contrastive: rows are drawn with probability ~ count^power, 0..1; 0 is "
            "uniform, 1 the unigram distribution"
        },
    )
    no_sampling_correction: bool = field(
        default=False,
        metadata={
            "help": "contrastive: do not correct the logits by the log-probability of a row to be "
            "compared with"
        },
    )
    sampling_estimator: ChoiceEnum(["posterior", "importance"]) = field(
        default="posterior",
        metadata={
            "help": "contrastive: how the target takes part in the correction: like any candidate "
            "(posterior: which of the candidates is the target?), or with certainty (importance: "
            "an unbiased estimate of the normaliser, a larger gradient for rare targets; for many "
            "candidates)"
        },
    )
    label_smoothing: float = field(
        default=0.0, metadata={"help": "contrastive, hybrid: label smoothing, 0 <= x < 1"}
    )
    additive_margin: float = field(
        default=0.0,
        metadata={
            "help": "contrastive: by how much the target's cosine must be ahead (AM-softmax), 0..2"
        },
    )
    contrastive_synthetic: ChoiceEnum(["none", "projection", "difference"]) = field(
        default="none",
        metadata={
            "help": "contrastive: a synthetic negative for each token, as in syn_margin: the part "
            "of h orthogonal to e (projection) or h - e (difference), both of norm 1"
        },
    )
    initial_scale: float = field(
        default=0.0,
        metadata={
            "help": "contrastive, hybrid: inverse temperature at the start of training, which is "
            "then learned, > 0; 0 takes the default of the score"
        },
    )
    r_drop: float = field(
        default=0.0,
        metadata={
            "help": "contrastive, hybrid: predict each batch twice, with other units dropped out, "
            "and ask both distributions of a token to agree (R-Drop's alpha), >= 0; 0 predicts once"
        },
    )
    consistency_weight: float = field(
        default=0.0,
        metadata={
            "help": "predict each batch twice, with other units dropped out, and add this times "
            "1 - cos of the two predictions of a token, >= 0; 0 predicts once"
        },
    )
    dispersion_weight: float = field(
        default=0.0,
        metadata={
            "help": "add this times the sliced dispersion of a learned table, a mean over its "
            "rows, >= 0, against collapse (a weight of the order of the number of rows holds "
            "frequent words, where nothing else pushes rows apart); 0 leaves it out"
        },
    )
    dispersion_circles: int = field(
        default=16, metadata={"help": "great circles drawn for the dispersion in each batch, > 0"}
    )
    dispersion_rows: int = field(
        default=8192,
        metadata={"help": "rows drawn for the dispersion when the table has more, > 1"},
    )


def check_terms(cfg):
    """Check the options of the terms.

    Raises:
        ValueError: a value out of its range, with the range.
    """
    rules = (
        ("contrastive_weight", cfg.contrastive_weight >= 0, "0 or more"),
        ("sampled_negatives", cfg.sampled_negatives >= 0, "0 or more"),
        (
            "max_candidates",
            cfg.max_candidates == 0 or cfg.max_candidates >= 2,
            "0 (all) or more than 1",
        ),
        ("negative_power", 0 <= cfg.negative_power <= 1, "between 0 (uniform) and 1 (unigram)"),
        ("label_smoothing", 0 <= cfg.label_smoothing < 1, "0 or more and less than 1"),
        ("additive_margin", 0 <= cfg.additive_margin <= 2, "between 0 and 2"),
        (
            "initial_scale",
            cfg.initial_scale == 0 or SCALE_RANGE[0] <= cfg.initial_scale <= SCALE_RANGE[1],
            f"0 (the default of the score) or between {SCALE_RANGE[0]} and {SCALE_RANGE[1]}",
        ),
        ("r_drop", cfg.r_drop >= 0, "0 or more"),
        ("consistency_weight", cfg.consistency_weight >= 0, "0 or more"),
        ("dispersion_weight", cfg.dispersion_weight >= 0, "0 or more"),
        ("dispersion_circles", cfg.dispersion_circles >= 1, "1 or more"),
        ("dispersion_rows", cfg.dispersion_rows >= 2, "2 or more"),
    )
    for name, kept, rule in rules:
        if not kept:
            raise ValueError(
                f"--{name.replace('_', '-')} must be {rule}, but is {getattr(cfg, name)}"
            )
    if cfg.no_sampling_correction and str(cfg.sampling_estimator) != "posterior":
        raise ValueError(
            f"--sampling-estimator {cfg.sampling_estimator} says how the target is corrected, but "
            "--no-sampling-correction corrects nothing; leave one of them out"
        )


#: Options that only the contrastive loss reads; ``hybrid`` reads the last three, too.
CONTRASTIVE_OPTIONS = (
    *("sampled_negatives", "max_candidates", "negative_power", "no_sampling_correction"),
    "sampling_estimator",
    *("additive_margin", "contrastive_synthetic", "label_smoothing", "initial_scale", "r_drop"),
)


def check_read(cfg, read: tuple):
    """Refuse options of the contrastive loss that nothing would read.

    Args:
        cfg: options of a criterion without the contrastive term.
        read: those that the criterion reads itself.

    Raises:
        ValueError: one of the others is set.
    """
    defaults = TermsConfig()
    for name in CONTRASTIVE_OPTIONS:
        value = getattr(cfg, name)
        if name not in read and str(value) != str(getattr(defaults, name)):
            raise ValueError(
                f"--{name.replace('_', '-')} {value} shapes the contrastive loss, which is not "
                "part of this criterion; give --criterion contrastive or --contrastive-weight 1, "
                "or leave it out"
            )
