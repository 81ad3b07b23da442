"""Measure a model file by the same path that serves it, and say so on a page.

Needs numpy, cv2 and onnxruntime, not torch.
"""

from training.evaluation.abstention import Coverage, cover, threshold
from training.evaluation.figures import Figures, measure, paired, wilson
from training.evaluation.ledger import LEDGER
from training.evaluation.prediction import label_set_of, predict
from training.evaluation.protocol import Evaluation, describe, evaluate
from training.evaluation.report import as_dict, write_report
from training.evaluation.robustness import Robustness, measure_robustness

__all__ = [
    "LEDGER",
    "Coverage",
    "Evaluation",
    "Figures",
    "Robustness",
    "as_dict",
    "cover",
    "describe",
    "evaluate",
    "label_set_of",
    "measure",
    "measure_robustness",
    "paired",
    "predict",
    "threshold",
    "wilson",
    "write_report",
]
