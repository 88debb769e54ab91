"""Class ids in files to class ids of a model."""
from collections.abc import Mapping

import cv2
import numpy as np

from relay_seg.class_ids import IGNORE

UNKNOWN = -1


def label_lookup(num_classes: int, label_map: Mapping[int, int] | None,
                 reduce_zero_label: bool) -> np.ndarray:
    """Table from an id in a label file to an id of the model.

    Args:
        num_classes: Classes of the model.
        label_map: Old to new ids, where a data set is used with a subset of
            its classes, as in the host.
        reduce_zero_label: Id 0 is ignored and the others move down by one,
            as in the host, before ``label_map``.

    Returns:
        256 entries, int16; -1 for ids that nobody knows, 255 for ignored.
    """
    if num_classes > 254:
        raise ValueError(f'{num_classes} classes; a label of 8 bits holds at '
                         'most 254, and 255 for ignored.')
    ids = label_map or {i: i for i in range(num_classes)}
    table = np.full(256, UNKNOWN, dtype=np.int16)
    for old, new in ids.items():
        table[old + reduce_zero_label] = new
    if reduce_zero_label:
        table[0] = IGNORE
    table[IGNORE] = IGNORE
    return table


def as_ids(label: np.ndarray, path: str) -> np.ndarray:
    """A label of any type as uint8.

    Args:
        label: Ids as in the file, any shape.
        path: The file, for the message.

    Raises:
        ValueError: It holds something else than integers from 0 to 255.
    """
    if label.dtype == np.uint8:
        return label
    if ((label < 0) | (label > 255)).any():
        raise ValueError(f'{path} holds ids from {label.min()} to '
                         f'{label.max()}; labels are class ids from 0 to 254 '
                         'and 255 for ignored.')
    if label.dtype.kind == 'f' and (label != np.floor(label)).any():
        raise ValueError(f'{path} holds numbers that are no integers; labels '
                         'are class ids. Convert it.')
    return label.astype(np.uint8)


def map_labels(label: np.ndarray, lookup: np.ndarray,
               path: str) -> np.ndarray:
    """Apply a table to a label.

    Args:
        label: Ids as in the file, any shape and type.
        lookup: See :func:`label_lookup`.
        path: The file, for the message.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: The label holds an id that the table does not know.
    """
    ids = np.ascontiguousarray(as_ids(label, path))
    flat = ids.reshape(-1, ids.shape[-1])
    if flat.size == 0:
        return ids
    spare = np.setdiff1d(np.arange(256), lookup)[0]  # stands for unknown
    table = np.where(lookup == UNKNOWN, spare, lookup).astype(np.uint8)
    mapped = cv2.LUT(flat, table)
    if (mapped == spare).any():
        found = np.unique(ids)
        unknown = found[lookup[found] == UNKNOWN].tolist()
        known = np.flatnonzero(lookup != UNKNOWN).tolist()
        raise ValueError(
            f'{path} holds ids {unknown} but only {known} are known; mend the '
            'label, or the classes of the data set.')
    return mapped.reshape(ids.shape)
