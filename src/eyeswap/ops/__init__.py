"""Pure tensor operations: the selective scan and its two-dimensional form, and layers shared by families."""

from eyeswap.ops.selective_scan import selective_scan, selective_scan_reference
from eyeswap.ops.ss2d import cross_merge, cross_scan, ss2d, ss2d_reference

__all__ = [
    "cross_merge",
    "cross_scan",
    "selective_scan",
    "selective_scan_reference",
    "ss2d",
    "ss2d_reference",
]
