"""A model's folder as MLflow's registry has it: built of a trained variant, and tried."""

import base64
import importlib.metadata
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import bacl
import bacl_platform
from bacl.datasets.decoding import ImageUnreadable, header
from bacl.datasets.index import Index
from bacl.digests import sha256_of
from bacl.errors import RunError, unwrapped
from bacl_platform.registry.pyfunc import CHECKPOINT, COLUMN, CONFIG, signature
from bacl_platform.registry.trained import Trained

NEEDED = (
    "hotcoco",
    "lvis",
    "mlflow",
    "numpy",
    "onedl-mmcv",
    "onedl-mmdetection",
    "onedl-mmengine",
    "opencv-contrib-python-headless",
    "opencv-python",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pyarrow",
    "pycocotools",
    "pydantic",
    "requests",
    "rich",
    "scipy",
    "torch",
    "torchvision",
    "urllib3",
)
"""Distributions that the code of a model imports, BACL's own parts left out: these are on no index,
and lie in the model's folder."""
PATIENCE = 300.0
"""Seconds that the trial of a model may take."""
_EXAMPLES = 50
"""Images among which the smallest file becomes the example."""
_TRIAL = """
import sys
from mlflow.models import Model
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import infer_and_parse_data
import json
folder = sys.argv[1]
asked = json.loads(Model.load(folder).get_serving_input(folder))
model = load_model(folder)
data = infer_and_parse_data(asked, model.metadata.get_input_schema())
(answer,) = model.predict(data)
assert set(answer) == {"size", "detections"}, answer
"""


def requirements() -> list[str]:
    """Pins of what a model needs, as it is installed here.

    A version's local part, as of a PyTorch for CPUs, is on no index and left out.
    """
    versions = {name: importlib.metadata.version(name) for name in NEEDED if _installed(name)}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # of the two of OpenCV one will do
        return False
    return True


def build(trained: Trained, folder: Path) -> str:
    """Write the model of a trained variant to `folder`, which does not exist yet; returns a digest
    of what decides its answers: weights, configuration, code and requirements.
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = _code(Path(place))
        categories = Path(place) / "categories.json"
        rows = [category.model_dump(mode="json") for category in trained.prepared.categories]
        categories.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        artifacts = {
            CHECKPOINT: trained.folder / "checkpoint.pth",
            CONFIG: trained.folder / "config.py",
            "categories": categories,
        }
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("model_code.py")),
            artifacts={name: str(path) for name, path in artifacts.items()},
            code_paths=[str(path) for path in code],
            signature=signature(),
            input_example={COLUMN: [_example(trained)]},
            pip_requirements=requirements(),
        )
    for cache in [*folder.rglob("__pycache__")]:
        shutil.rmtree(cache)
    _forget_places(folder / "MLmodel")
    return _digest(folder)


def _forget_places(path: Path) -> None:
    """Take out of a model's description where on this machine its files were."""
    from mlflow.models import Model

    described = Model.load(str(path))
    flavor = described.flavors["python_function"]
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    for artifact in flavor["artifacts"].values():
        artifact["uri"] = artifact["path"]
    described.save(str(path))


def _code(place: Path) -> list[Path]:
    """Copies of the two packages' sources."""
    copies = []
    for package in (bacl, bacl_platform):
        source = Path(str(package.__file__)).parent
        copies.append(
            shutil.copytree(
                source, place / source.name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        )
    return copies


def _example(trained: Trained) -> str:
    """A small image of the validation split, in base64."""
    split = trained.prepared.val
    index = Index(split.index)
    paths = [
        Path(split.images) / index.image(place).file for place in range(min(len(index), _EXAMPLES))
    ]
    for path in sorted(filter(Path.is_file, paths), key=lambda path: path.stat().st_size):
        try:
            header(path)
        except ImageUnreadable:
            continue
        return base64.b64encode(path.read_bytes()).decode()
    raise RunError(
        f"{split.images}: expected an image of the validation split as example, got none"
    )


def _digest(folder: Path) -> str:
    """SHA-256 of the folder's files, without what says when and where it was made."""
    parts = [folder / "artifacts", folder / "code", folder / "requirements.txt"]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*"))]

    named = sorted((str(file.relative_to(folder)), file) for file in files if file.is_file())
    return sha256_of(part for name, file in named for part in (name.encode(), file.read_bytes()))


def try_out(folder: Path) -> None:
    """Load the model as a server does, in a process of its own, and let it answer its example.

    Raises RunError where it does not.
    """
    command = [sys.executable, "-c", _TRIAL, str(folder)]
    environment = {**os.environ, "BACL_DEVICE": "cpu"}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
            check=False,
            env=environment,
            cwd=folder.parent,
        )
    except subprocess.TimeoutExpired as error:
        raise RunError(
            f"the model was tried before it is registered, and gave no answer in {PATIENCE:.0f} s"
        ) from error
    if done.returncode:
        lines = unwrapped(done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]
        raise RunError(
            f"the model was tried before it is registered, and gave no answer: {lines[-1]}"
        )
