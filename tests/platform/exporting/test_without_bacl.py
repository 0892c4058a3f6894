"""An exported folder runs in MMDetection's own tools where BACL is not installed."""

import json
import os
import pickle
import subprocess
import sys
import venv
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch

from bacl.detector import operators
from bacl_platform.exporting.checking import Agreement, compare
from bacl_platform.exporting.export import export
from bacl_platform.inference.detector import Detector

PACKAGES = Path(mmdet.__file__).parents[1]
TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"

# Two things that an installation of MMDetection has otherwise: mmcv's compiled operators, which
# this environment may lack, are stood in for by a copy of what backs them here; and lvis-api
# still asks for a name that NumPy has removed.
SITECUSTOMIZE = """
import numpy
import operators_stand_in
operators_stand_in.install()
numpy.float = float
"""

INFERENCE = """
import json, sys
try:
    import bacl
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("bacl is there")
from mmdet.apis import DetInferencer, inference_detector, init_detector

config, checkpoint, out, *images = sys.argv[1:]
inferencer = DetInferencer(config, checkpoint, device="cpu", show_progress=False)
predicted = inferencer(images, out_dir=out)["predictions"]
detector = init_detector(config, checkpoint, device="cpu")
found = [inference_detector(detector, image).pred_instances for image in images]
modules = {type(module).__module__.split(".")[0] for module in detector.modules()}
assert not any(name.startswith("bacl") for name in sys.modules), "bacl was imported"
print(json.dumps({
    "inferencer": predicted,
    "detector": [
        {"bboxes": f.bboxes.tolist(), "scores": f.scores.tolist(), "labels": f.labels.tolist()}
        for f in found
    ],
    "classes": list(detector.dataset_meta["classes"]),
    "modules": sorted(modules),
}))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Runs Python in an environment that has all the packages of this one, except those that are
    installed as links to their sources, as BACL is: a folder named in a `.pth` file is searched for
    packages, but its own `.pth` files are not read."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "present.pth").write_text(f"{PACKAGES}\n", encoding="utf-8")
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    source = Path(operators.__file__).read_text(encoding="utf-8")
    own = source.replace("from bacl.errors import RunError", "RunError = RuntimeError")
    assert "import bacl" not in own and "from bacl" not in own
    (packages / "operators_stand_in.py").write_text(own, encoding="utf-8")
    if (PACKAGES / "bacl").exists():
        pytest.skip("BACL is installed as a copy beside MMDetection, so it cannot be left out")

    def run(*words):
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        done = subprocess.run(
            [folder / "bin" / "python", *map(str, words)],
            cwd=folder,
            env={**kept, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture
def exported(exported_variant, prepared, tmp_path):
    """The folder of a BACL variant that is sure of something, and its detector."""
    variant = exported_variant.parent / "bacl"
    checkpoint = torch.load(variant / "checkpoint.pth", weights_only=True)
    torch.manual_seed(0)
    for name in ("weight", "bias"):
        checkpoint["state_dict"][f"roi_head.bbox_head.fc_cls.{name}"].normal_(0, 0.5)
    torch.save(checkpoint, variant / "checkpoint.pth")
    export(variant / "checkpoint.pth", "mmdet", tmp_path / "exported", prepared)
    return tmp_path / "exported", Detector.load(variant, device="cpu")


def validation_images(prepared):
    images = json.loads(Path(prepared.val.annotations).read_text(encoding="utf-8"))["images"]
    return {one["id"]: Path(prepared.val.images) / one["file_name"] for one in images}


def as_found(values):
    boxes = np.array(values["bboxes"], dtype=np.float32).reshape(-1, 4)
    return {
        "boxes": boxes,
        "scores": np.array(values["scores"], dtype=np.float32),
        "labels": np.array(values["labels"], dtype=np.int64),
    }


@pytest.mark.slow
def test_stock_inference_finds_what_the_variant_finds(environment, exported, prepared, tmp_path):
    folder, detector = exported
    images = list(validation_images(prepared).values())[:3]
    script = tmp_path / "inference.py"
    script.write_text(INFERENCE, encoding="utf-8")
    files = [folder / "config.py", folder / "checkpoint.pth", tmp_path / "out", *images]
    told = environment(script, *files)
    said = json.loads(next(line for line in told.splitlines() if line.startswith('{"inferencer"')))
    assert said["classes"] == list(detector.categories)
    assert set(said["modules"]) <= {"mmdet", "mmcv", "mmengine", "torch"}
    assert len(list((tmp_path / "out").rglob("*.png"))) == 3  # the pictures that it has drawn
    agreement = Agreement()
    for place, image in enumerate(images):
        expected = detector.predict(image)
        for who in ("inferencer", "detector"):
            compare(str(image), expected, as_found(said[who][place]), 0.01, agreement)
    assert agreement.detections > 50 and agreement.others == []


@pytest.mark.slow
def test_stock_test_evaluates_what_the_variant_finds(environment, exported, prepared, tmp_path):
    folder, detector = exported
    results = tmp_path / "results.pkl"
    told = environment(
        TOOLS / "test.py",
        *(folder / "config.py", folder / "checkpoint.pth"),
        *("--work-dir", tmp_path / "work", "--out", results),
    )
    assert "lvis/bbox_AP:" in told and "lvis/bbox_APr:" in told
    found = pickle.loads(results.read_bytes())
    images = validation_images(prepared)
    assert len(found) == len(images)
    agreement = Agreement()
    for one in found:
        values = {name: one["pred_instances"][name] for name in ("bboxes", "scores", "labels")}
        image = images[one["img_id"]]
        expected = detector.predict(image)
        compare(str(image), expected, as_found(values), 0.01, agreement)
    assert agreement.detections > 100 and agreement.others == []
