"""Readers and writers of all official annotation formats, one module per benchmark family.

A reader converts a published file to a list of `Example`, in file order, and refuses a malformed file with a
`DataError` that names file and row. A writer converts examples back to the published format, with deterministic bytes.
There is one extension: a record may have a ``kind``, which replaces the default kind.
"""

from __future__ import annotations

from eyeswap.data.formats.boxes import Box, full_set_box, normalise_box
from eyeswap.data.formats.gqa import read_gqa, write_gqa
from eyeswap.data.formats.ocid import clutter_level, read_ocid, write_ocid
from eyeswap.data.formats.pope import POPE_SPLITS, read_pope, write_pope
from eyeswap.data.formats.record import Example
from eyeswap.data.formats.refer import read_refer, refer_splits, write_refer
from eyeswap.data.formats.tallyqa import read_tallyqa, write_tallyqa
from eyeswap.data.formats.vqa import read_textvqa, read_vizwiz, read_vqa, write_textvqa, write_vizwiz, write_vqa

__all__ = [
    "POPE_SPLITS",
    "Box",
    "Example",
    "clutter_level",
    "full_set_box",
    "normalise_box",
    "read_gqa",
    "read_ocid",
    "read_pope",
    "read_refer",
    "read_tallyqa",
    "read_textvqa",
    "read_vizwiz",
    "read_vqa",
    "refer_splits",
    "write_gqa",
    "write_ocid",
    "write_pope",
    "write_refer",
    "write_tallyqa",
    "write_textvqa",
    "write_vizwiz",
    "write_vqa",
]
