"""Tensor operations: selective scans in one, two and four directions, and layers shared by backbone families."""

from eyeswap.ops.projected_scan import bidirectional_scan, scan_states
from eyeswap.ops.selective_scan import selective_scan, selective_scan_reference
from eyeswap.ops.ss2d import cross_merge, cross_scan, ss2d, ss2d_reference

__all__ = [
    "bidirectional_scan",
    "cross_merge",
    "cross_scan",
    "scan_states",
    "selective_scan",
    "selective_scan_reference",
    "ss2d",
    "ss2d_reference",
]
