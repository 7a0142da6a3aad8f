"""How good what was taught is, on the clips that were kept to check by."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from stmixer.trainer.evaluate.evaluation import EvaluationResult


@dataclass(frozen=True, slots=True)
class Figures:
    """Shares are 0..1. ``named``: of people who do none of what is taught and are found, those whom a label is said of
    all the same, at the score from which the service shows one; None where nobody is known to do none of it."""

    mean_ap: float | None
    recall: float
    false_people: float
    """A keyframe."""
    keyframes: int
    named: float | None

    @classmethod
    def of(cls, result: EvaluationResult, taught: str) -> Figures:
        """Those of an evaluation in which the set ``taught`` is what was taught."""
        reports = {report.subject.name: report for report in result.reports}
        people = reports[taught].people
        assert people is not None
        named = None
        for name, report in reports.items():
            if name != taught and report.out_of_set is not None:
                named = report.out_of_set.any_label.share
        return cls(reports[taught].mean_ap, people.recall, people.false_per_keyframe, people.keyframes, named)

    def says(self) -> str:
        """In a line."""
        parts = [f"mAP {self.mean_ap:.2f}" if self.mean_ap is not None else "no mAP"]
        parts += [f"{self.recall:.0%} of the people found", f"{self.false_people:.2f} false people a keyframe"]
        if self.named is not None:
            parts.append(f"a label said of {self.named:.0%} of those who do none")
        return ", ".join(parts)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)
