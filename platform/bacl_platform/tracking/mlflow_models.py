"""The models of one plan or sweep: MLflow's *logged models*, one for each run of a variant.

A model has the variant's parameters, its metrics by data set and, as tags, where its checkpoint is;
`bacl.key` and `bacl.variant` tell which it is. A call that is repeated, or a plan that is run
again, makes no second one: the server is asked first what it has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric

TYPE = "detector"
_FORBIDDEN = re.compile(r"[/:.%\"']")
"""Characters that a model's name must not have."""


@dataclass(frozen=True)
class Variant:
    """What is to be known of a run's model.

    metrics: as they were or are to be logged to the run.
    """

    run: str
    name: str
    tags: dict[str, str]
    params: dict[str, str]
    metrics: Sequence["Metric"]
    step: int


class Models:
    """The models of a plan, by the run that they are of."""

    def __init__(self, client: Any, experiment_id: str, digest: str) -> None:
        self.client, self.experiment_id, self.digest = client, experiment_id, digest
        self._known: dict[str, LoggedModel] | None = None

    def log(self, variant: Variant, dataset: tuple[str, str]) -> bool:
        """Make a variant's model and log its metrics, to the run as well; returns whether it did:
        not where the model is ready.

        dataset: name and digest of what it was evaluated on.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric

        known = self._found()
        model = known.get(variant.run)
        if model is None:
            model = known[variant.run] = self.client.create_logged_model(
                self.experiment_id,
                _FORBIDDEN.sub("_", variant.name),
                variant.run,
                variant.tags | {"bacl.plan": self.digest},
                variant.params,
                TYPE,
            )
            outputs = []
        elif model.status == LoggedModelStatus.READY:
            return False
        else:
            outputs = self.client.get_run(variant.run).outputs.model_outputs
        # those that the run has are the same in all, and a run stores no such metric twice
        metrics = [
            Metric(m.key, m.value, m.timestamp, m.step, model.model_id, *dataset)
            for m in variant.metrics
        ]
        if metrics:
            self.client.log_batch(variant.run, metrics=metrics)
        if all(output.model_id != model.model_id for output in outputs):
            self.client.log_outputs(variant.run, [LoggedModelOutput(model.model_id, variant.step)])
        known[variant.run] = self.client.finalize_logged_model(model.model_id, "READY")
        return True

    def _found(self) -> dict[str, "LoggedModel"]:
        if self._known is None:
            known: dict[str, LoggedModel] = {}
            token: str | None = None
            while True:
                page = self.client.search_logged_models(
                    [self.experiment_id], f"tags.`bacl.plan` = '{self.digest}'", page_token=token
                )
                known |= {model.source_run_id: model for model in page}
                token = page.token
                if not token:
                    break
            self._known = known
        return self._known
