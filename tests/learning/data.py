"""A tiny data set of real digits, as the training job reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from milonga.pictures import decode, to_array

from tests.e2e import digits


def write_arrays(path: Path, count: int = 240, resolution_px: int = 16) -> Path:
    pictures = digits.load(known=count, later=1, live=1).known
    images = np.stack([to_array(decode(one.png), resolution_px) for one in pictures])
    labels = np.array([int(one.label) for one in pictures])
    split = count * 3 // 4
    np.savez(
        path,
        x_train=images[:split],
        y_train=labels[:split],
        x_val=images[split:],
        y_val=labels[split:],
        added_train=np.ones(split, dtype=np.int32),
        added_val=np.ones(count - split, dtype=np.int32),
        classes=np.array([str(digit) for digit in range(10)]),
    )
    return path
