"""Promoting: an alias moves to another version, if that one is shown to be better."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bacl.errors import BaclError, RunError, UsageError
from bacl.metric_names import kind_of, lower_is_better
from bacl_platform.analysis.compare import Comparison, compare
from bacl_platform.console import say
from bacl_platform.registry.register import check_alias
from bacl_platform.registry.trained import Trained
from bacl_platform.store.store import Store
from bacl_platform.tracking.registry import holder_of, registry, version_of, versions

if TYPE_CHECKING:
    from rich.console import Console

RESAMPLES = 1000


@dataclass(frozen=True)
class Promoted:
    """What became of an alias. before: the version that had it, if one had. comparison: of the two,
    where there was something to compare."""

    name: str
    alias: str
    version: str
    before: str | None
    comparison: Comparison | None


def promote(
    store: Store,
    name: str,
    version: str | None,
    alias: str,
    metric: str,
    console: "Console",
    anyway: bool = False,
    mixed: bool = False,
    resamples: int = RESAMPLES,
) -> Promoted:
    """Move an alias to a version, if a paired bootstrap over the validation images shows that it is
    better than the alias's present holder: the whole interval of the difference is above zero, or
    below it for an error.

    version: the newest if not given. metric: such as AP or AP_r. anyway: move it whatever the
    comparison says, or where none can be made. mixed: compare exact and replayed variants.

    Raises UsageError for names, versions and metrics that do not exist, and versions that are
    judged on different images; RunError where no improvement is shown, where the store lacks a
    version's detections, or where the registry cannot be reached. Then the alias stays.
    """
    check_alias(alias)
    with registry(store) as client:
        wanted = _wanted(client, name, version)
        holder = holder_of(client, name, alias)
        if holder is None:
            client.set_registered_model_alias(name, alias, wanted.version)
            say(console, f"{alias} of {name} is version {wanted.version}; none had it before")
            return Promoted(name, alias, str(wanted.version), None, None)
        if str(holder.version) == str(wanted.version):
            say(console, f"{alias} of {name} is version {wanted.version} already")
            return Promoted(name, alias, str(wanted.version), str(wanted.version), None)
        comparison, reason = None, None
        try:
            comparison = _compared(store, holder, wanted, metric, resamples, console, mixed)
        except BaclError as error:
            if not anyway:
                raise
            reason = str(error)
        else:
            reason = _doubt(comparison, metric, console)
        if reason is not None and not anyway:
            raise RunError(f"{alias} stays with version {holder.version}: {reason}")
        if reason is not None:
            say(console, f"warning: {reason}; the alias moves all the same")
        client.set_registered_model_alias(name, alias, wanted.version)
        say(console, f"{alias} of {name} is version {wanted.version}, after {holder.version}")
        return Promoted(name, alias, str(wanted.version), str(holder.version), comparison)


def _wanted(client: Any, name: str, version: str | None) -> Any:
    if version is not None:
        return version_of(client, name, version)
    known = versions(client, name)
    if not known:
        version_of(client, name, "1")  # says what is missing
    return known[0]


def _compared(
    store: Store,
    holder: Any,
    wanted: Any,
    metric: str,
    resamples: int,
    console: "Console",
    mixed: bool,
) -> Comparison:
    first, second = (_trained(store, version) for version in (holder, wanted))
    pair = [
        trained.contender(f"version {version.version} ({trained.variant})", first.job.seed)
        for trained, version in ((first, holder), (second, wanted))
    ]
    kind = kind_of(metric)
    metrics = None if kind is None else [kind]
    return compare(pair[0], pair[1], resamples, console, mixed=mixed, metrics=metrics)


def _trained(store: Store, version: Any) -> Trained:
    """The variant that a version was made of."""
    key, variant = version.tags.get("bacl.key"), version.tags.get("bacl.variant")
    told = f"version {version.version} of {version.name}"
    if not key or not variant:
        raise UsageError(
            f"{told}: expected one that `bacl register` made, got one without the tags bacl.key "
            "and bacl.variant, so there is nothing to compare; --anyway moves the alias"
        )
    try:
        return Trained.of(store, key, variant)
    except RunError as error:
        raise RunError(
            f"{told}: its detections are needed for the comparison, but {error}: name its store by "
            "--store, or let --anyway move the alias"
        ) from error


def _doubt(comparison: Comparison, metric: str, console: "Console") -> str | None:
    """Say what the comparison shows; why that is no improvement, None where it is one."""
    if metric not in comparison.metrics:
        raise UsageError(
            f"--metric: expected one of {', '.join(comparison.metrics)}, got {metric!r}"
        )
    for note in comparison.notes:
        say(console, note)
    say(console, comparison.verdict(metric))
    change = comparison.metrics[metric]
    if lower_is_better(metric):
        better, where = change.high < 0, "below"
    else:
        better, where = change.low > 0, "above"
    if better:  # NaN is not
        return None
    return f"no improvement of {metric} is shown, which takes an interval {where} zero"
