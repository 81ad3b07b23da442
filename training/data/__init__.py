"""Where pictures of faces and what people see in them are read, checked and counted.

Only numpy, cv2 and the standard library are needed here, so that ``mien evaluate`` runs without
torch.
"""

from training.data.dataset import (
    CROP_MARGIN,
    FER2013,
    FERPLUS,
    SIZE,
    SPLITS,
    Dataset,
    LabelSet,
)
from training.data.duplicates import without_copies
from training.data.read import read_data

__all__ = [
    "CROP_MARGIN",
    "FER2013",
    "FERPLUS",
    "SIZE",
    "SPLITS",
    "Dataset",
    "LabelSet",
    "read_data",
    "without_copies",
]
