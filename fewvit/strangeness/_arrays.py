"""What arrays out of a file must be."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def require_arrays(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int | None, ...]], dtype: type[np.generic]
) -> None:
    """Raise ValueError unless there is a finite array of each shape (None: any length) and of this type."""
    for name, shape in shapes.items():
        found = arrays.get(name)
        if found is None:
            raise ValueError(f"the strangeness score lacks its {name}")
        fits = found.ndim == len(shape) and all(s in (None, n) for s, n in zip(shape, found.shape, strict=True))
        if not fits or found.dtype != dtype or not np.isfinite(found).all():
            raise ValueError(
                f"the {name} of the strangeness score are {found.dtype} {found.shape}, or hold NaN or Inf; expected "
                f"{np.dtype(dtype)} {shape}"
            )
