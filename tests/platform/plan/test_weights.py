"""Weights that detectors start from, before anything starts."""

import argparse
import hashlib
import io

import pytest
import torch
from mmdet.registry import MODELS
from typer.testing import CliRunner
from web import serving

import bacl.register  # noqa: F401
from bacl.backbones import BACKBONES
from bacl.config import portable
from bacl.errors import RunError, UsageError
from bacl.weights import address_of, locate, published_digest
from bacl_platform.cli.main import app
from bacl_platform.plan.weights import check_weights, fetch_named
from bacl_platform.run.submit import pack
from bacl_platform.spec.load import load
from bacl_platform.store.store import Store
from bacl_platform.store.weights import localise

KEY = "layer1.0.conv1.weight"


def state_of(backbone="tiny", **options):
    return MODELS.build({**BACKBONES[backbone].config, **options}).state_dict()


@pytest.fixture
def problem(planned, store, tmp_path):
    """What is told of weights with a content."""

    def told(content=None):
        file = tmp_path / "weights.pth"
        if content is not None:
            file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
        jobs = planned(f"detector.weights={file}").jobs
        try:
            check_weights(jobs, store)
        except UsageError as error:
            return str(error).replace(str(file), "FILE")
        return None

    return told


def test_weights_of_the_backbone_are_taken(problem):
    state = state_of()
    assert problem(state) is None
    assert problem({"state_dict": {f"module.{n}": v for n, v in state.items()}}) is None
    classifier = {"fc.weight": torch.zeros(3)}  # of ImageNet: no part of the backbone
    assert problem({"model": state | classifier, "epoch": 1}) is None


def test_weights_without_what_detection_adds_are_taken(problem):
    assert problem({n: v for n, v in state_of().items() if "downsample" not in n}) is None


def test_older_format_of_torch_is_taken(planned, store, tmp_path):
    file = tmp_path / "old.pth"
    torch.save(state_of(), file, _use_new_zipfile_serialization=False)
    check_weights(planned(f"detector.weights={file}").jobs, store)


def test_weights_of_other_shapes_or_depths_are_told(problem):
    wide = problem(state_of(base_channels=32))
    assert "whose conv1.weight has shape (16, 3, 7, 7), got one of shape (32, 3, 7, 7)" in wide
    deep = problem(state_of(depth=34))
    assert "got those of a larger one, with layer1.2.conv1.weight" in deep
    shallow = {n: v for n, v in state_of().items() if "layer4.1" not in n}
    assert "that has layer4.1.conv1.weight, found none such among its" in problem(shallow)


@pytest.mark.parametrize(
    "content, told",
    [
        (None, "detector.weights: expected a file of backbone weights, found no FILE"),
        (b"<html>404</html>", "got a file that is damaged or something else"),
        (b"", "got a file that is damaged or something else"),
        (argparse.Namespace(a=1), "only code can read: it holds argparse.Namespace"),
        ({f"backbone.{KEY}": torch.zeros(1)}, "that has conv1.weight, found none such among its 1"),
        ([1, 2], "that has conv1.weight, found none"),
    ],
)
def test_what_no_backbone_can_start_from_is_told_in_one_clean_sentence(problem, content, told):
    sentence = problem(content)
    assert sentence.endswith(told)
    assert sentence.isprintable() and len(sentence) < 250


def test_swin_wants_weights_in_its_own_form(planned, store, tmp_path):
    file = tmp_path / "swin.pth"
    torch.save({"model": {"layers.0.blocks.0.attn.qkv.weight": torch.zeros(1)}}, file)
    jobs = planned("detector.backbone=swin_t", f"detector.weights={file}").jobs
    check_weights(jobs, store)
    torch.save({KEY: torch.zeros(1)}, file)
    with pytest.raises(UsageError, match="weights of a SwinTransformer backbone"):
        check_weights(jobs, store)


@pytest.mark.parametrize("command", ["plan", "run"])
def test_commands_tell_before_they_start_anything(tiny, store, command):
    words = [command, str(tiny), "--store", str(store.root), "--set", "detector.weights=nope.pth"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    expected = f"expected a file of backbone weights, found no {tiny.parent / 'nope.pth'}"
    assert expected in result.output
    assert not (store.root / "mlflow.db").exists()


# From the web


def saved(state=None) -> bytes:
    file = io.BytesIO()
    torch.save(state_of() if state is None else state, file)
    return file.getvalue()


@pytest.fixture
def server():
    with serving() as state:
        state.files["/r18.pth"] = saved()
        yield state


def keys(plan):
    return [job.variant_keys for job in plan.jobs]


def test_address_is_fetched_once_and_found_again_without_a_network(planned, store, server, capsys):
    override = f"detector.weights={server.base}/r18.pth"
    first = planned(override)
    check_weights(first.jobs, store)
    digest = hashlib.sha256(server.files["/r18.pth"]).hexdigest()
    assert f"got SHA-256 {digest}, which is noted and holds from now on" in capsys.readouterr().err
    assert [path for path, _ in server.asked] == ["/r18.pth"]
    server.files.clear()
    again = planned(override)
    check_weights(again.jobs, store)
    assert keys(again) == keys(first) and len(server.asked) == 1


def test_keys_hold_the_content_and_not_where_it_is_from(planned, server, tmp_path):
    server.files["/elsewhere/other.pth"] = content = server.files["/r18.pth"]
    (tmp_path / "mine.pth").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    plans = [
        planned(f"detector.weights={place}")
        for place in (
            f"{server.base}/r18.pth",
            f"{server.base}/elsewhere/other.pth",
            f"https://nowhere.invalid/unknown.pth#sha256={digest}",  # the digest says enough
            tmp_path / "mine.pth",
        )
    ]
    assert all(keys(plan) == keys(plans[0]) for plan in plans)
    assert keys(planned()) != keys(plans[0])


def test_job_begins_with_the_file_of_the_store(planned, store, server):
    (job, *_) = planned(f"detector.weights={server.base}/r18.pth").jobs
    init = job.config["model"]["backbone"]["init_cfg"]
    digest = hashlib.sha256(server.files["/r18.pth"]).hexdigest()
    assert init["checkpoint"] == f"{server.base}/r18.pth#sha256={digest}"
    localise(store, job.config)
    assert init["checkpoint"] == str(store.root / ".weights" / f"{digest}.pth")
    read = torch.load(init["checkpoint"], weights_only=True)
    assert all(
        torch.equal(read[name], value)
        for name, value in torch.load(
            io.BytesIO(server.files["/r18.pth"]), weights_only=True
        ).items()
    )


def test_content_that_changes_at_its_address_is_refused(planned, store, server):
    override = f"detector.weights={server.base}/r18.pth"
    jobs = planned(override).jobs
    (file,) = (store.root / ".weights").glob("*.pth")
    file.unlink()
    server.files["/r18.pth"] = saved()
    with pytest.raises(RunError, match=r"expected SHA-256 [0-9a-f]{64}, got [0-9a-f]{64}; what"):
        check_weights(jobs, store)


def test_mirror_is_asked_first_and_the_address_after_it(planned, store, server, monkeypatch):
    monkeypatch.setenv("BACL_MIRROR", f"{server.base}/mirror")
    server.files["/mirror/r18.pth"] = server.files["/r18.pth"]
    planned(f"detector.weights={server.base}/far/r18.pth")
    assert [path for path, _ in server.asked] == ["/mirror/r18.pth"]
    del server.files["/mirror/r18.pth"]
    planned(f"detector.weights={server.base}/r18.pth")
    assert [path for path, _ in server.asked][1:] == ["/mirror/r18.pth", "/r18.pth"]


def test_hub_of_hugging_face_is_asked_by_plain_addresses(planned, server, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.base)
    server.files["/org/repo/resolve/main/a/b.bin"] = server.files["/r18.pth"]
    server.files["/org/repo/resolve/v1.0/b.bin"] = server.files["/r18.pth"]
    planned("detector.weights=hf://org/repo/a/b.bin")
    planned("detector.weights=hf://org/repo@v1.0/b.bin")
    assert len(server.asked) == 2


def test_names_of_hubs_are_mmengines(planned, store, server, monkeypatch, tmp_path):
    """`torchvision` enters keys by its name, as ever, and is fetched before a run."""
    from mmengine.runner import checkpoint

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    content = saved(state_of("resnet50"))
    short = hashlib.sha256(content).hexdigest()[:8]
    url = f"{server.base}/resnet50-{short}.pth"
    server.files[f"/resnet50-{short}.pth"] = content
    monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: {"resnet50": url})
    jobs = planned("detector.backbone=resnet50", "detector.weights=torchvision").jobs
    init = portable(jobs[0].config)["model"]["backbone"]["init_cfg"]
    assert init == {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}
    check_weights(jobs, store)
    assert not server.asked  # what torchvision has fits
    fetch_named(jobs, store)
    fetch_named(jobs, store)
    assert len(server.asked) == 1
    localise(store, jobs[0].config)
    file = store.root / ".weights" / f"{hashlib.sha256(content).hexdigest()}.pth"
    assert jobs[0].config["model"]["backbone"]["init_cfg"]["checkpoint"] == str(file)


def test_torchvision_has_weights_of_every_backbone_that_says_so():
    for name in filter(None, (backbone.torchvision for backbone in BACKBONES.values())):
        address = address_of(f"torchvision://{name}")
        file, (place,) = locate(address)
        assert place.startswith("https://download.pytorch.org/models/") and place.endswith(file)
        assert len(published_digest(address, file)) == 8


def test_file_that_belies_its_published_digest_is_refused(planned, store, server, monkeypatch):
    from mmengine.runner import checkpoint

    server.files["/resnet50-01234567.pth"] = saved()
    names = {"resnet50": f"{server.base}/resnet50-01234567.pth"}
    monkeypatch.setattr(checkpoint, "get_torchvision_models", lambda: names)
    with pytest.raises(RunError, match=r"expected SHA-256 01234567\.\.\., which its name"):
        planned("detector.weights=torchvision://resnet50")
    assert not list((store.root / ".weights").glob("*.pth"))


def test_what_torch_hub_has_is_left_to_mmengine(planned, store, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    there = tmp_path / "hub" / "checkpoints"
    there.mkdir(parents=True)
    (there / "resnet50-0676ba61.pth").write_bytes(b"")
    jobs = planned("detector.backbone=resnet50", "detector.weights=torchvision").jobs
    fetch_named(jobs, store)
    assert not (store.root / ".weights").exists()


def test_unknown_name_of_a_hub_is_told_with_the_likely_one(planned):
    with pytest.raises(UsageError, match=r"did you mean open-mmlab://resnet50_v1c\?"):
        planned("detector.weights=open-mmlab://resnet50_v1")


@pytest.mark.parametrize(
    "weights, told",
    [
        ("ftp://host/a.pth", "expected torchvision, a file, or an address that begins with"),
        ("https://host/a.pth#sha256=12", "expected 64 hexadecimal digits after #sha256=, got 2"),
        ("https://host/", "expected an address that ends with a file's name"),
        ("hf://owner/repo", "expected hf://OWNER/REPOSITORY/FILE"),
    ],
)
def test_address_that_is_none_is_told_in_one_sentence(planned, weights, told):
    with pytest.raises(UsageError) as raised:
        planned(f"detector.weights={weights}")
    assert "detector.weights" in str(raised.value) or "detector: " in str(raised.value)
    assert told in str(raised.value) and "\n" not in str(raised.value)


def test_address_is_no_path_of_a_base_and_is_sent_to_a_cluster(tiny, tmp_path):
    address = "https://host/a.pth"
    folder = tmp_path / "other"
    folder.mkdir()
    base = tiny.with_name("base.yaml")
    base.write_text(f"base: tiny.yaml\ndetector: {{weights: '{address}'}}\n")
    file = folder / "mine.yaml"
    file.write_text("base: ../base.yaml\nname: mine\n")
    assert load(file).detector.weights == address
    package = pack(file, [], tmp_path / "sent")
    assert len(package.files) == 3 and package.variables == []


@pytest.mark.parametrize("command", ["plan", "run"])
def test_address_without_the_file_is_told_before_anything_starts(tiny, store, server, command):
    words = [command, str(tiny), "--store", str(store.root)]
    words += ["--set", f"detector.weights={server.base}/none.pth"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 1
    assert f"none.pth could not be downloaded: {server.base}/none.pth: HTTP 404" in result.output
    assert not (store.root / "mlflow.db").exists()


def test_file_of_another_kind_is_told_by_its_address(planned, store, server):
    server.files["/page.pth"] = b"<html>sign in</html>"
    jobs = planned(f"detector.weights={server.base}/page.pth").jobs
    with pytest.raises(UsageError) as raised:
        check_weights(jobs, store)
    assert str(raised.value).startswith(f"detector.weights: {server.base}/page.pth: expected a")


def test_bucket_carries_weights_to_other_machines(url, tiny, prepared, datasets, server, tmp_path):
    from bacl_platform.plan.planner import make_plan
    from bacl_platform.store import weights

    store = Store(url)
    store.root.mkdir(parents=True)
    store.datasets.symlink_to(datasets)
    experiment = load(tiny, [f"detector.weights={server.base}/r18.pth"])
    (job, *_) = make_plan(experiment, prepared, store).jobs
    weights.push(store, job.config)
    (file,) = (store.root / ".weights").glob("*.pth")
    content = file.read_bytes()
    file.unlink()  # as on another machine
    weights.pull(store, job.config)
    assert file.read_bytes() == content and len(server.asked) == 1
    file.unlink()
    store.bucket.remove([f".weights/{file.name}"])
    with pytest.raises(RunError, match="expected the weights that a job begins with, found none"):
        weights.pull(store, job.config)
