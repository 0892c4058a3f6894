"""What a model version says about itself, in Markdown."""

from bacl.metric_names import FIXED
from bacl_platform.registry.trained import Trained
from bacl_platform.texts import markdown

_USE = """\
```python
import mlflow, base64
model = mlflow.pyfunc.load_model("models:/{name}/{version}")
image = base64.b64encode(open("photo.jpg", "rb").read()).decode()
model.predict([{{"image": image}}], params={{"score_threshold": 0.5}})
```

`mlflow models serve -m models:/{name}/{version} --env-manager local` and \
`bacl serve models:/{name}/{version}` answer over HTTP."""


def description(trained: Trained, experiment: str, name: str, version: str) -> str:
    """How a version was trained, what it reaches, and how it is used."""
    job, prepared = trained.job, trained.prepared
    settings = trained.job.variants[trained.variant].model_dump(mode="json", exclude_defaults=True)
    told = ", ".join(f"{field}={value}" for field, value in settings.items() if field != "method")
    schedule = job.recipe.schedule
    length = f"{schedule.epochs} epochs" if schedule.epochs else f"{schedule.iterations:,} steps"
    method = job.variants[trained.variant].method
    how = f"trained for {length} with a batch of {schedule.batch}"
    if job.kind == "imported":
        how = "imported"
    elif job.kind == "corrections":
        how = "corrected without training"
    facts = {
        "Method": f"{method} ({told})" if told else method,
        "Stage": f"{job.stage}, {how}" + (", on stored features" if job.replayed else ""),
        "Dataset": f"{prepared.train.image_total:,} training and "
        f"{prepared.val.image_total:,} validation images, {len(prepared.categories):,} categories, "
        f"digest {prepared.digest}",
        "Job": job.key,
    }
    if trained.result.evaluated_with:
        facts["Evaluated with"] = trained.result.evaluated_with
    metrics = {name: v for name, v in trained.result.metrics.items() if v is not None}
    reached = f": AP {100 * metrics['AP']:.1f}" if "AP" in metrics else ""
    if reached and FIXED in metrics:
        limit = trained.result.limit(FIXED)
        cut = f" of results cut at {limit} per image" if limit else ""
        reached += f", AP-Fixed {100 * metrics[FIXED]:.1f}{cut}"
    # lists of versions show the beginning of the first line; MLflow shows headings as plain text
    lines = [
        f"{markdown(trained.variant)}{reached} (seed {job.seed} of {markdown(experiment)})",
        "",
        "**How it was made**",
        "",
        "| | |",
        "|---|---|",
    ]
    lines += [f"| {what} | {markdown(value)} |" for what, value in facts.items()]
    lines += ["", "**What it reaches**", "", "| Metric | % |", "|---|--:|"]
    lines += [f"| {markdown(name)} | {100 * value:.2f} |" for name, value in metrics.items()]
    return "\n".join(
        [*lines, "", "**How it is used**", "", _USE.format(name=name, version=version)]
    )
