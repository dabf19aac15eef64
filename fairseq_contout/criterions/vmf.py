"""Criterions ``vmf`` and ``power_spherical``: the length of the prediction is its certainty κ."""

from dataclasses import dataclass, field

from fairseq.criterions import register_criterion
from fairseq.dataclass import ChoiceEnum

from fairseq_contout.criterions.base import ContinuousCriterion, ContinuousCriterionConfig
from fairseq_contout.losses import power_spherical_loss, vmf_authors_loss, vmf_loss


def _check_not_negative(flag: str, value: float):
    if not value >= 0:
        raise ValueError(f"{flag} must be 0 or more, but is {value}; 0 switches the term off")


@dataclass
class VMFCriterionConfig(ContinuousCriterionConfig):
    """Options of ``vmf``."""

    vmf_form: ChoiceEnum(["paper", "authors"]) = field(
        default="paper",
        metadata={
            "help": "paper: -log C(k) - lambda2 h.e + lambda1 k; "
            "authors: -log C(k) + log(1+k) (0.2 - cos(h,e)), the form that the authors ran"
        },
    )
    vmf_lambda1: float = field(
        default=0.02, metadata={"help": "weight of the concentration k in the paper form, >= 0"}
    )
    vmf_lambda2: float = field(
        default=0.1, metadata={"help": "weight of the product h.e in the paper form, > 0"}
    )


@register_criterion("vmf", dataclass=VMFCriterionConfig)
class VMFCriterion(ContinuousCriterion):
    """Von Mises-Fisher likelihood: :func:`~fairseq_contout.losses.vmf_loss`, or authors' form."""

    score = "dot"
    has_concentration = True

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_not_negative("--vmf-lambda1", cfg.vmf_lambda1)
        if not cfg.vmf_lambda2 > 0:
            raise ValueError(
                f"--vmf-lambda2 must be greater than 0, but is {cfg.vmf_lambda2}; without the "
                "product h.e the loss does not see the target. 0.1 is the paper's value"
            )

    def token_losses(self, hidden, target, table):
        if self.cfg.vmf_form == "authors":
            return vmf_authors_loss(hidden, table.rows(target))
        rows = table.rows(target)
        return vmf_loss(hidden, rows, self.cfg.vmf_lambda1, self.cfg.vmf_lambda2)


@dataclass
class PowerSphericalCriterionConfig(ContinuousCriterionConfig):
    """Options of ``power_spherical``."""

    ps_lambda1: float = field(
        default=0.0, metadata={"help": "weight of a penalty on the concentration k, >= 0"}
    )
    ps_lambda2: float = field(
        default=1.0, metadata={"help": "weight of k log(1 + cos(h,e)); 1 is the likelihood"}
    )


@register_criterion("power_spherical", dataclass=PowerSphericalCriterionConfig)
class PowerSphericalCriterion(ContinuousCriterion):
    """Power spherical likelihood, :func:`fairseq_contout.losses.power_spherical_loss`."""

    score = "power_spherical"
    has_concentration = True

    @staticmethod
    def initial_length(dim):
        """Return d, the likeliest κ where the mean cosine is 1/2: c (d - 1)/(1 - c).

        From Xavier's √d predictions have to grow that long first (docs/ablations.md).
        """
        return float(dim)

    def __init__(self, cfg, task):
        super().__init__(cfg, task)
        _check_not_negative("--ps-lambda1", cfg.ps_lambda1)
        if not cfg.ps_lambda2 > 0:
            raise ValueError(
                f"--ps-lambda2 must be greater than 0, but is {cfg.ps_lambda2}; 1 is the likelihood"
            )

    def token_losses(self, hidden, target, table):
        rows = table.rows(target)
        return power_spherical_loss(hidden, rows, self.cfg.ps_lambda1, self.cfg.ps_lambda2)
