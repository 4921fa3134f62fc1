"""Scores of lesions: the connected components of a mask, over faces, edges and corners.

Where slices are missing, each slice is looked at by itself.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seglab.core.arrays import bounding_box

BoolArray = NDArray[np.bool_]
LEAST_DICE: Final = 1e-6
"""Dice from which a piece may be the match of a lesion; below it is none."""


class LesionScores(NamedTuple):
    """What became of a patient's lesions; NaN: both masks are empty."""

    lesion_f1: float
    """In [0, 1]: of the shares of lesions, and of predicted pieces, that overlap with any."""
    lesions_found: float  # matched, each with one piece of its own
    lesions_missed: float  # without a match
    lesions_false: float  # predicted pieces without a match
    lesion_dice: float  # mean over the matched pairs, in [0, 1]; 0 without one


def lesion_scores(pred: BoolArray, truth: BoolArray, contiguous: bool = True) -> LesionScores:
    """Match lesions and predicted pieces of (S, H, W) masks one to one: the largest sum of Dice.

    All but ``lesion_f1`` equals brats-evaluation 0.0.10 for gliomas, which dilates nothing: its
    ``tp``, ``fn``, ``fp`` and ``lesionwise_dsc_mean``.
    """
    from scipy.optimize import linear_sum_assignment

    box = bounding_box(pred | truth)
    if box is None:
        return LesionScores(math.nan, 0.0, 0.0, 0.0, math.nan)
    lesions, of_truth = label_pieces(truth[box], contiguous)
    pieces, of_pred = label_pieces(pred[box], contiguous)
    both, shape = pred[box] & truth[box], (of_truth + 1, of_pred + 1)
    pairs = np.ravel_multi_index((lesions[both], pieces[both]), shape)
    shared = np.bincount(pairs, minlength=math.prod(shape)).reshape(shape)[1:, 1:]
    sizes = [np.bincount(one.ravel(), minlength=1)[1:] for one in (lesions, pieces)]
    dice = 2 * shared / np.add.outer(*sizes)
    # The cost of no match lies just above that of any.
    cost = np.where(dice >= LEAST_DICE, 1 - dice, 1 + LEAST_DICE)
    matched = dice[linear_sum_assignment(cost)]
    matched = matched[matched >= LEAST_DICE]
    found, right = (int(np.count_nonzero(shared.any(axis=axis))) for axis in (1, 0))
    count = float(len(matched))
    # 2PR / (P + R) with P = right / of_pred and R = found / of_truth.
    f1 = 2 * found * right / (right * of_truth + found * of_pred) if found else 0.0
    mean = float(matched.mean()) if len(matched) else 0.0
    return LesionScores(f1, count, of_truth - count, of_pred - count, mean)


def label_pieces(mask: BoolArray, contiguous: bool) -> tuple[NDArray[np.int32], int]:
    """Number the pieces of ``mask`` (S, H, W) from 1, slice by slice if not ``contiguous``."""
    from scipy.ndimage import label

    structure = np.ones((3, 3, 3), dtype=bool)
    if not contiguous:
        structure[[0, 2]] = False
    labels, count = label(mask, structure, output=np.int32)
    return labels, int(count)
