"""Findings about frozen backbones: mode, weights, tap, norm, normalisation, unused parameters, accuracy.

The catalog entry of a backbone says how it should be run; encoders outside the catalog are not judged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from eyeswap.audit.finding import Finding, Records, runs_of
from eyeswap.backbones import catalog
from eyeswap.backbones.catalog import BackboneEntry
from eyeswap.results.published import FAR_BELOW, known_accuracy, published_for
from eyeswap.runs.record import RunRecord

_ROUNDING = 1.2  # ratio of published parameters to ours that rounding and counting rules may explain
WITH_BATCH_NORM = ("maxvit", "mambavision", "vit-adapter", "spatial-mamba")
FIRST_MIXING_LEVEL = {"mambavision": 2}  # levels 0 and 1 are purely convolutional; all other families mix throughout


def not_frozen(records: Records) -> Iterator[Finding]:
    """Find frozen backbones in training mode, with active drop path or changing batch statistics."""
    for name, record in records.items():
        mode = record.backbone.frozen_mode
        if mode in (None, "eval"):
            continue
        entry = _entry(record)
        rate = None if entry is None else entry.as_published.get("architecture", {}).get("drop_path_rate")
        has_norms = entry is not None and entry.family in WITH_BATCH_NORM
        noise = [f"drop path {rate} was active"] if rate else []
        noise += ["BatchNorm used batch statistics"] if has_norms else []
        harmless = entry is not None and not noise
        if harmless:
            noise = ["it has neither drop path nor BatchNorm, so its tokens are unaffected"]
        yield Finding(
            "train-mode",
            "note" if harmless else "warning",
            (name,),
            "; ".join(["the frozen backbone was not in eval mode when its tokens were computed", *noise]),
            {"frozen_mode": mode, "drop_path_rate": rate, "batch_norm": has_norms},
        )


def tuned(records: Records) -> Iterator[Finding]:
    """Find backbones whose last blocks learnt, which changes the question of a comparison of frozen encoders."""
    arms = {record.arm: record.setting("blocks") for record in records.values() if record.tunes_backbone}
    if arms:
        yield Finding(
            "tuned-backbone",
            "warning",
            runs_of(records, arms),
            f"blocks of the backbone learnt in {', '.join(arms)}, which changes the question: these arms show what an "
            "encoder becomes in training, not what a frozen one gives",
            {"blocks": arms},
            together=True,
        )


def unknown_weights(records: Records) -> Iterator[Finding]:
    """Find backbones whose weights were not recorded."""
    for name, record in records.items():
        if record.backbone.name and record.backbone.weights_sha256 is None:
            yield Finding(
                "unknown-weights",
                "warning",
                (name,),
                "the backbone has no recorded weights, so they may be random",
                {"backbone": record.backbone.name},
            )


def early_tap(records: Records) -> Iterator[Finding]:
    """Find features that are tapped before the first of the blocks that the family is named for."""
    for name, record in records.items():
        first = FIRST_MIXING_LEVEL.get(str(record.backbone.family))
        tap = record.backbone.tap
        if first is not None and isinstance(tap, list) and int(tap[0]) < first:
            yield Finding(
                "early-tap",
                "warning",
                (name,),
                f"{record.backbone.name} is tapped at {_tap(tap)}, before its first mixer (level {first}): the "
                "features are purely convolutional",
                {"tap": tap, "first_mixing_level": first},
            )


def norm_at_tap(records: Records) -> Iterator[Finding]:
    """Find an untrained norm, or no norm, between features and connector."""
    for name, record in records.items():
        norm = record.observed.tap_norm
        evidence = {"norm": norm, "tap": record.backbone.tap, "backbone": record.backbone.name}
        if norm == "untrained":
            yield Finding("tap-norm", "warning", (name,), "the norm at the tap was never trained", evidence)
        elif norm == "none":
            message = "no norm follows the tap: the connector receives features of arbitrary magnitude"
            yield Finding("tap-norm", "note", (name,), message, {"norm": norm})


def other_colours(records: Records) -> Iterator[Finding]:
    """Find images that are normalised differently from those in pretraining."""
    for name, record in records.items():
        entry, colours = _entry(record), record.backbone.colours
        if entry is None or colours is None:
            continue
        trained = {"mean": list(entry.geometry.mean), "std": list(entry.geometry.std)}
        used = {key: [float(value) for value in colours.get(key, trained[key])] for key in trained}
        if any(not _is_close(used[key], trained[key]) for key in trained):
            yield Finding(
                "normalisation",
                "warning",
                (name,),
                f"images are normalised with mean {_colour(used['mean'])} and std {_colour(used['std'])}, but the "
                f"weights of {entry.name} were trained with mean {_colour(trained['mean'])} and std "
                f"{_colour(trained['std'])}",
                {"used": used, "trained": trained},
            )


def idle_parameters(records: Records) -> Iterator[Finding]:
    """Find backbones with parameters that are counted but not used in a forward pass."""
    idle: dict[str, tuple[int, int]] = {}
    for record in records.values():
        counted, used = record.backbone.num_parameters, record.observed.parameters_run
        if counted and used and used < counted:
            idle[record.arm] = (counted, used)
    if idle:
        counts = "; ".join(f"{arm} {used:,} of {counted:,}" for arm, (counted, used) in idle.items())
        yield Finding(
            "idle-parameters",
            "warning",
            runs_of(records, idle),
            f"not all counted parameters are used: {counts}",
            {arm: {"counted": counted, "run": used} for arm, (counted, used) in idle.items()},
            together=True,
        )


def published_sizes(records: Records) -> Iterator[Finding]:
    """Find backbones for which the published study counts the whole network, including detector and head."""
    for name, record in records.items():
        published, used = published_for(str(record.backbone.name)), record.backbone.num_parameters
        if published is not None and used and published.parameters_m * 1e6 > _ROUNDING * used:
            yield Finding(
                "idle-parameters",
                "note",
                (name,),
                f"the published study counts {published.parameters_m:g}M parameters for {published.backbone}, of which "
                f"{used / 1e6:.1f}M are used up to the tap",
                {"published": published.parameters_m * 1e6, "run": used},
            )


def _entry(record: RunRecord) -> BackboneEntry | None:
    """Return the catalog entry of a run's backbone; None outside the catalog."""
    return catalog.find(str(record.backbone.name))


def _tap(tap: list[Any]) -> str:
    level, point = tap[0], tap[1] if len(tap) > 1 else ""
    return f"level {level}, {point} its downsampling" if point in ("before", "after") else f"{tap}"


def _is_close(first: list[float], second: list[float]) -> bool:
    """Whether two colours are equal to the precision in which they are published."""
    return len(first) == len(second) and all(
        math.isclose(a, b, abs_tol=5e-3) for a, b in zip(first, second, strict=True)
    )


def _colour(values: list[float]) -> str:
    return "/".join(f"{value:g}" for value in values)


def unequal_accuracy(records: Records) -> Iterator[Finding]:
    """Find arms whose frozen weights classify far worse than the others': a confound of training and family."""
    by_kind: dict[str, dict[str, float]] = {}
    for record in records.values():
        if (known := known_accuracy(record)) is not None:
            by_kind.setdefault(known[0], {})[record.arm] = known[1]
    for kind, accuracy in by_kind.items():
        best = max(accuracy.values())
        far = {arm: value for arm, value in accuracy.items() if value < best - FAR_BELOW}
        if far:
            others = [value for arm, value in accuracy.items() if arm not in far]
            spread = f"{min(others):.1f} to {best:.1f}" if len(others) > 1 else f"{best:.1f}"
            values = "; ".join(f"{arm} {value:.1f}%" for arm, value in far.items())
            yield Finding(
                "unequal-accuracy",
                "warning",
                runs_of(records, far),
                f"frozen weights classify far worse than the others' ({spread}%): {values} ({kind}); their arms may "
                "score lower because of pretraining, not because of the family",
                {"accuracy": accuracy, "kind": kind},
                together=True,
            )


CHECKS = (
    not_frozen,
    tuned,
    unknown_weights,
    early_tap,
    norm_at_tap,
    other_colours,
    idle_parameters,
    published_sizes,
    unequal_accuracy,
)
