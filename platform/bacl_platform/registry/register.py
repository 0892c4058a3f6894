"""Registering: a trained variant becomes a version of a registered model, wholly or not at all."""

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bacl.errors import RunError, UsageError
from bacl_platform.console import remark
from bacl_platform.registry import package
from bacl_platform.registry.card import description
from bacl_platform.registry.pyfunc import signature
from bacl_platform.registry.trained import Trained
from bacl_platform.store.store import Store
from bacl_platform.tracking.registry import holder_of, registry, versions

if TYPE_CHECKING:
    from rich.console import Console

_NAME = re.compile(r"[^/:\x00-\x1f]{1,200}")
_ALIAS = re.compile(r"(?!(?:latest|v\d+)$)[\w-]{1,200}", re.IGNORECASE)
_MODEL = "bacl.model"
"""The tag that has the digest of a model's folder, set when all of it was sent."""
_DIGEST_OF_CATEGORIES = "bacl.categories"
_VERSIONS = "mlflow.modelVersions"
"""MLflow's own tag of a logged model: the versions that are made of it."""
_TYPE = "detector"


@dataclass(frozen=True)
class Registered:
    """A version of a registered model. is_new: whether this call made it."""

    name: str
    version: str
    aliases: list[str]
    is_new: bool

    @property
    def uri(self) -> str:
        """As `mlflow models serve` and `bacl serve` take it."""
        return f"models:/{self.name}/{self.version}"


def register(
    store: Store,
    key: str,
    variant: str,
    experiment: str,
    name: str | None,
    alias: str | None,
    console: "Console",
) -> Registered:
    """Make a trained variant a version of a registered model, with all that it needs to detect.

    key: of its job. experiment: its name, under which MLflow has the run. name: of the registered
    model; the experiment's if not given. alias: that the version gets, if no other one has it.

    The model is built and tried before anything is sent; where sending fails, what was sent is
    taken back. The same variant with the same code is registered once. Raises UsageError for names
    that cannot be, a name whose versions have other categories or another signature, and an alias
    that another version has; RunError where the registry cannot be reached, or has no run of it.
    """
    name = name or experiment
    _check_names(name, alias)
    trained = Trained.of(store, key, variant)
    with registry(store) as client, tempfile.TemporaryDirectory(prefix="bacl-model-") as place:
        run = _run(client, trained, experiment)
        known = _versions(client, name)
        _check_fit(client, trained, name, known or [])
        _check_alias(client, name, alias, trained, known)
        remark(console, f"building {variant} and trying it")
        folder = Path(place) / "model"
        digest = package.build(trained, folder)
        same = next((one for one in known or [] if _is(one, trained, digest)), None)
        if same is not None:
            if alias is not None:
                client.set_registered_model_alias(name, alias, same.version)
            aliases = client.get_model_version(name, same.version).aliases
            return Registered(name, str(same.version), list(aliases), False)
        package.try_out(folder)
        with ExitStack() as undo:
            if known is None:
                _create(client, name, experiment)
                undo.callback(_quietly, client.delete_registered_model, name)
            model = _logged_model(client, run, trained, digest, undo)
            _send(client, model, run, folder, digest)
            version = _version(client, name, model, run, trained, digest, experiment, undo)
            if alias is not None:
                client.set_registered_model_alias(name, alias, version)
            undo.pop_all()
        return Registered(name, version, [alias] if alias else [], True)


def _check_names(name: str, alias: str | None) -> None:
    if not _NAME.fullmatch(name) or not name.strip() or name.strip(".") == "":
        raise UsageError(f"--name: expected a name without / and :, got {name!r}")
    if alias is not None:
        check_alias(alias)


def check_alias(alias: str) -> None:
    """Raise UsageError for what MLflow takes for no alias."""
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            "--alias: expected letters, digits, _ and - but neither `latest` nor a version such "
            f"as `v1`, got {alias!r}"
        )


def _run(client: Any, trained: Trained, experiment: str) -> Any:
    """The MLflow run of a variant: that of its own experiment, else the newest of another."""
    wanted = f"tags.`bacl.key` = '{trained.job.key}' and tags.`bacl.variant` = '{trained.variant}'"
    own = client.get_experiment_by_name(experiment)
    places = [own.experiment_id] if own is not None else []
    others = [one.experiment_id for one in client.search_experiments()]
    newest = ["attributes.start_time DESC"]
    for chosen in (places, others):
        if not chosen:
            continue
        if found := client.search_runs(chosen, wanted, max_results=1, order_by=newest):
            return found[0]
    raise RunError(
        f"MLflow has no run of {trained.variant} (job {trained.job.key}) that the version could be "
        "linked to: `bacl run FILE` sends what the store has, and trains nothing anew"
    )


def _versions(client: Any, name: str) -> list[Any] | None:
    """The versions of a registered model, the newest first; None where there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return versions(client, name)


def _categories(trained: Trained) -> str:
    """A digest of the categories' names and ids, in the order of labels."""
    from bacl.digests import sha256_of

    rows = [[category.id, category.name] for category in trained.prepared.categories]
    return sha256_of([json.dumps(rows).encode()])[:16]


def _check_fit(client: Any, trained: Trained, name: str, known: list[Any]) -> None:
    """Raise UsageError where the newest version of the name is something else."""
    if not known:
        return
    newest = known[0]
    other = f"{name}: expected a name whose versions "
    own = _categories(trained)
    if newest.tags.get(_DIGEST_OF_CATEGORIES, own) != own:
        raise UsageError(
            f"{other}know the categories of {trained.variant}, got one whose version "
            f"{newest.version} knows others: choose another --name"
        )
    if _signature(client, name, newest) != signature():
        raise UsageError(
            f"{other}take and give what detectors do, got one whose version {newest.version} has "
            "another signature: choose another --name"
        )


def _signature(client: Any, name: str, version: Any) -> Any:
    """What a version takes and gives; None where it does not say so."""
    from mlflow.artifacts import download_artifacts
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(
            artifact_uri=client.get_model_version_download_uri(name, version.version) + "/MLmodel",
            dst_path=folder,
            tracking_uri=client.tracking_uri,
        )
        return Model.load(path).signature


def _check_alias(
    client: Any, name: str, alias: str | None, trained: Trained, known: list[Any] | None
) -> None:
    """Raise UsageError where another detector has the alias: whether this one shall take its place
    is for `bacl promote` to say."""
    if alias is None or known is None:
        return
    holder = holder_of(client, name, alias)
    if holder is not None and not _is(holder, trained, None):
        raise UsageError(
            f"--alias {alias}: version {holder.version} of {name} has it: register without "
            f"--alias, then `bacl promote {name} --alias {alias}` compares the two"
        )


def _is(version: Any, trained: Trained, digest: str | None) -> bool:
    """Whether a version is of this variant; digest: and of this very folder."""
    own = (trained.job.key, trained.variant)
    same = (version.tags.get("bacl.key"), version.tags.get("bacl.variant")) == own
    return same and digest in (None, version.tags.get(_MODEL))


def _create(client: Any, name: str, experiment: str) -> None:
    client.create_registered_model(
        name,
        tags={"bacl.experiment": experiment},
        description=f"Detectors of long-tailed categories, trained by BACL ({experiment}).",
    )


def _logged_model(client: Any, run: Any, trained: Trained, digest: str, undo: ExitStack) -> Any:
    """MLflow's model of the run: the one that tracking made and that has no files yet or these
    very ones, else a new one."""
    from mlflow.entities import LoggedModelOutput, Metric

    for model in _logged_models(client, run):
        of_variant = model.tags.get("bacl.variant") == trained.variant
        if of_variant and model.tags.get(_MODEL, digest) == digest:
            return model

    metrics = {k: v for k, v in trained.result.metrics.items() if v is not None}
    model = client.create_logged_model(
        run.info.experiment_id,
        re.sub(r"[/:.%\"']", "_", trained.variant),
        run.info.run_id,
        {name: value for name, value in run.data.tags.items() if name.startswith("bacl.")},
        dict(list(run.data.params.items())[:100]),
        _TYPE,
    )
    undo.callback(_quietly, client.delete_logged_model, model.model_id)
    step = trained.job.recipe.schedule.iterations or 0
    at = run.info.end_time or run.info.start_time
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, v, at, step, model.model_id) for name, v in metrics.items()],
    )
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step)])
    return model


def _logged_models(client: Any, run: Any) -> Iterator[Any]:
    """MLflow's models of a run that have not been deleted."""
    from mlflow.exceptions import MlflowException

    for output in run.outputs.model_outputs if run.outputs else []:
        try:
            yield client.get_logged_model(output.model_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _send(client: Any, model: Any, run: Any, folder: Path, digest: str) -> None:
    """Send the folder's files to MLflow's model, unless it has them."""
    from mlflow.models import Model

    if model.tags.get(_MODEL) == digest:
        return
    path = folder / "MLmodel"
    described = Model.load(str(path))
    described.model_id = described.model_uuid = model.model_id
    described.run_id = run.info.run_id
    described.artifact_path = model.artifact_location
    described.save(str(path))
    client.log_model_artifacts(model.model_id, str(folder))
    client.finalize_logged_model(model.model_id, "READY")
    client.set_logged_model_tags(model.model_id, {_MODEL: digest})


def _version(
    client: Any,
    name: str,
    model: Any,
    run: Any,
    trained: Trained,
    digest: str,
    experiment: str,
    undo: ExitStack,
) -> str:
    job = trained.job
    tags = {
        "bacl.key": job.key,
        "bacl.variant": trained.variant,
        "bacl.variant_key": job.variant_keys[trained.variant],
        "bacl.seed": str(job.seed),
        "bacl.experiment": experiment,
        "bacl.dataset_digest": job.dataset_digest,
        "bacl.features": job.features,
        "bacl.checkpoint_sha256": trained.checkpoint_sha256,
        _DIGEST_OF_CATEGORIES: _categories(trained),
        _MODEL: digest,
    }
    made = client.create_model_version(
        name,
        model.artifact_location,  # not models:/ID, which is looked up at another server's
        run.info.run_id,
        tags,
        model_id=model.model_id,
    )
    version = str(made.version)
    undo.callback(_quietly, client.delete_model_version, name, version)
    client.update_model_version(name, version, description(trained, experiment, name, version))
    before = json.loads(client.get_logged_model(model.model_id).tags.get(_VERSIONS, "[]"))
    after = [*before, {"name": name, "version": made.version}]
    client.set_logged_model_tags(model.model_id, {_VERSIONS: json.dumps(after)})
    undo.callback(
        _quietly, client.set_logged_model_tags, model.model_id, {_VERSIONS: json.dumps(before)}
    )
    return version


def _quietly(call: Callable[..., Any], *arguments: Any) -> None:
    """Take something back, as far as a registry that has just failed lets it."""
    with suppress(Exception):
        call(*arguments)
