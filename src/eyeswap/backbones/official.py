"""Do official weights fit their entry of the catalog? Load them strictly, run the network, say what was found."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from eyeswap.backbones.conformance import Finding, check_backbone
from eyeswap.backbones.weights import LoadedBackbone, load_backbone


def check_weights(name: str, weights: Path | None = None) -> Iterator[Finding]:
    """Check the weights of a catalog entry, one finding at a time.

    Args:
        name: a name of the catalog.
        weights: the official file, or a folder that holds it; by default it is downloaded, once.

    Raises:
        SpecError: if the catalog has no such entry.
        CheckpointError: if the file is missing, damaged, untrusted, or does not fit; the message says where and why.
    """
    loaded = load_backbone(name, weights)
    yield from _file_findings(loaded)
    yield from check_backbone(
        loaded.network, loaded.geometry, checks=("tokens", "repeat"), num_images=1, with_speed=False
    )


def _file_findings(loaded: LoadedBackbone) -> Iterator[Finding]:
    entry, path, keys = loaded.entry, loaded.weights_file, loaded.keys
    assert entry is not None
    assert path is not None
    assert keys is not None
    source = entry.weights
    yield Finding("file", "ok", f"{path} ({path.stat().st_size / 2**20:,.1f} MiB)")
    if source.sha256 in (None, loaded.weights_sha256):
        compared = "the catalog knows none to compare it with" if source.sha256 is None else "as in the catalog"
        yield Finding("sha256", "ok", f"{loaded.weights_sha256} ({compared})")
    else:
        found = f"{loaded.weights_sha256}, but the catalog means {source.sha256}"
        yield Finding("sha256", "failed", found, "delete the file and get it again")
    terms = "" if source.commercial_use else ": for non-commercial use only"
    yield Finding("licence", "ok" if source.commercial_use else "note", f"{source.licence}{terms}")
    found = f"{keys.found} tensors of the network: {keys.used} used, {keys.found - keys.used} beyond the tap"
    if keys.default:
        found += f"; {len(keys.default)} lacking and left at their start, as {keys.default[0]}"
    yield Finding("keys", "ok", f"{found}; none missing, none unexpected")
