"""What is in the data before anything is trained on it: counts, copies, conflicts, votes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from training.data.dataset import FER2013, FERPLUS, SPLITS, Dataset
from training.data.duplicates import Track, equal_groups, near_pairs
from training.data.votes import VOTED, majority

Pairs = npt.NDArray[np.int64]

_MEANS = {
    "angry": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprise": "surprise",
    "neutral": "neutral",
}
"""FER2013's labels in FER+'s words."""


@dataclass(frozen=True, slots=True)
class Copies:
    """How many pictures of one split occur again in another, or elsewhere in their own."""

    of: str
    within: str
    exact: int
    """Pictures of ``of`` with an equal one in ``within``."""
    exact_other_label: int
    """Those of them whose equals there all have another label."""
    near: int | None
    """Pictures with a near copy in ``within`` and no equal one; None where it was not asked."""
    near_other_label: int | None
    """Those of them whose near copies there all have another label."""


@dataclass(frozen=True, slots=True)
class VotesReport:
    """What FER+'s voters make of the pictures."""

    majority: dict[str, dict[str, int]]
    """By split and expression: the pictures with that majority."""
    no_majority: dict[str, int]
    """By split: the pictures without one, or of which most voters named no expression."""
    no_face: int
    """Pictures in which all voters saw no face."""
    not_ten: int
    """Pictures whose votes do not add to ten."""
    compared: int
    """Pictures with a majority for an expression that FER2013 has too: all but contempt."""
    agreeing: int
    """Those of them with FER2013's label."""
    agreement: dict[str, float | None]
    """By FER2013's label: the part of the compared pictures where the voters see it too."""


@dataclass(frozen=True, slots=True)
class DataReport:
    """Counts of pictures."""

    digest: str
    counts: dict[str, dict[str, int]]
    """By split and label of FER2013."""
    flat: dict[str, int]
    """By split: pictures of one colour."""
    copies: tuple[Copies, ...]
    conflicting_groups: int
    """Groups of equal pictures that do not all have the same label."""
    votes: VotesReport | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def report(data: Dataset, near: bool = True, track: Track = iter) -> DataReport:
    """Count everything; near copies of FER2013 take half a minute, which ``track`` can show."""
    groups = equal_groups(data.images)
    exact = np.array([pair for group in groups for pair in combinations(group, 2)], np.int64)
    flat = data.images.min(axis=(1, 2)) == data.images.max(axis=(1, 2))
    return DataReport(
        digest=data.digest(),
        counts=_by_split(data, data.labels, FER2013.labels),
        flat={name: int(flat[data.splits == index].sum()) for index, name in enumerate(SPLITS)},
        copies=_copies(
            data, exact.reshape(-1, 2), near_pairs(data.images, track) if near else None
        ),
        conflicting_groups=sum(len(set(data.labels[group].tolist())) > 1 for group in groups),
        votes=None if data.votes is None else _votes(data, data.votes),
    )


def _by_split(
    data: Dataset, labels: npt.NDArray[np.int64], names: tuple[str, ...]
) -> dict[str, dict[str, int]]:
    return {
        split: {
            name: int(((data.splits == index) & (labels == label)).sum())
            for label, name in enumerate(names)
        }
        for index, split in enumerate(SPLITS)
    }


def _copies(data: Dataset, exact: Pairs, near: Pairs | None) -> tuple[Copies, ...]:
    found: list[Copies] = []
    for of in range(len(SPLITS)):
        for within in range(of + 1):
            equal, equal_other = _occurring(data, exact, of, within)
            counts: tuple[int | None, int | None] = (None, None)
            if near is not None:
                alike, alike_other = (rows - equal for rows in _occurring(data, near, of, within))
                counts = (len(alike), len(alike_other))
            found.append(Copies(SPLITS[of], SPLITS[within], len(equal), len(equal_other), *counts))
    return tuple(found)


def _occurring(data: Dataset, pairs: Pairs, of: int, within: int) -> tuple[set[int], set[int]]:
    """Rows of split ``of`` paired with some of ``within``; and those paired with no same label."""
    row, other = np.concatenate([pairs, pairs[:, ::-1]]).T
    here = (data.splits[row] == of) & (data.splits[other] == within)
    agrees = here & (data.labels[row] == data.labels[other])
    rows = set(row[here].tolist())
    return rows, rows - set(row[agrees].tolist())


def _votes(data: Dataset, votes: npt.NDArray[np.uint8]) -> VotesReport:
    seen = majority(votes)
    expected = np.array([FERPLUS.labels.index(_MEANS[name]) for name in FER2013.labels])
    comparable = np.isin(seen, expected)
    agrees = comparable & (seen == expected[data.labels])
    agreement: dict[str, float | None] = {}
    for label, name in enumerate(FER2013.labels):
        compared = comparable & (data.labels == label)
        share = agrees[compared].mean() if compared.any() else None
        agreement[name] = None if share is None else float(share)
    return VotesReport(
        majority=_by_split(data, seen, FERPLUS.labels),
        no_majority={
            name: int(((data.splits == index) & (seen < 0)).sum())
            for index, name in enumerate(SPLITS)
        },
        no_face=int((votes[:, VOTED.index("NF")] == 10).sum()),
        not_ten=int((votes.sum(axis=1, dtype=np.int64) != 10).sum()),
        compared=int(comparable.sum()),
        agreeing=int(agrees.sum()),
        agreement=agreement,
    )


def table(report: DataReport) -> str:
    """The report as text for a terminal."""
    lines = ["Pictures by split and label", *_grid(report.counts)]
    lines += ["", "Copies: pictures of a split that occur again (of these with another label)"]
    for one in report.copies:
        near = "" if one.near is None else f"   near {one.near:5} ({one.near_other_label})"
        where = f"{one.of} again in {one.within}"
        lines.append(f"  {where:33} equal {one.exact:5} ({one.exact_other_label}){near}")
    lines += [
        "",
        f"Groups of equal pictures with conflicting labels: {report.conflicting_groups}",
        "Pictures of one colour: "
        + ", ".join(f"{count} in {split}" for split, count in report.flat.items()),
    ]
    if report.votes is not None:
        lines += ["", *_votes_lines(report.votes)]
    return "\n".join([*lines, "", f"SHA-256 of the data: {report.digest}"])


def _votes_lines(votes: VotesReport) -> list[str]:
    columns = {
        split: counts | {"none": votes.no_majority[split]}
        for split, counts in votes.majority.items()
    }
    share = f" ({100 * votes.agreeing / votes.compared:.1f} %)" if votes.compared else ""
    parts = [
        f"{name} {'-' if part is None else f'{100 * part:.0f} %'}"
        for name, part in votes.agreement.items()
    ]
    return [
        "FER+: pictures by split and majority of the votes",
        *_grid(columns),
        f"  in agreement with FER2013's label: {votes.agreeing} of {votes.compared}{share}",
        "  " + ", ".join(parts),
        f"  no face for any voter: {votes.no_face}; votes that do not add to ten: {votes.not_ten}",
    ]


def _grid(counts: dict[str, dict[str, int]]) -> list[str]:
    names = list(next(iter(counts.values())))
    lines = [f"  {'':11}" + "".join(f"{name:>10}" for name in [*names, "all"])]
    for split, row in counts.items():
        values = [*row.values(), sum(row.values())]
        lines.append(f"  {split:11}" + "".join(f"{value:10}" for value in values))
    return lines
