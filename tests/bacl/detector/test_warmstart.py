"""Starting a classifier stage from a checkpoint, and refusing what does not fit."""

import sys
from pathlib import Path

import pytest
import torch
from ranks import on_ranks
from training import build, config_of, train

from bacl.detector.warmstart import load_trunk, read_checkpoint, share_frozen
from bacl.digests import sha256
from bacl.errors import RunError
from bacl.method_settings.paper import BACL, BCE, Hallucination, Softmax

HEAD = "roi_head.bbox_head"


@pytest.fixture(scope="module")
def parent(dataset_info):
    return build(config_of(dataset_info, {"bce": BCE(method="bce")}, freeze=())).state_dict()


@pytest.fixture
def bank(dataset_info):
    variants = {
        "bacl": BACL(method="bacl", hallucination=Hallucination(categories=4)),
        "softmax": Softmax(method="softmax"),
    }
    torch.manual_seed(1)
    model = build(config_of(dataset_info, variants))
    for parameter in model.parameters():
        parameter.data.add_(1)
    return model


def written(state, path):
    torch.save({"state_dict": state, "meta": {}}, path)
    return path


def test_trunk_and_every_classifier_start_from_the_parent(parent, bank, tmp_path):
    fresh = load_trunk(bank, written(parent, tmp_path / "p.pth"))
    assert fresh == []
    state = bank.state_dict()
    for name in ("bacl", "softmax"):
        classifier = state[f"{HEAD}.variants.{name}.fc_cls.weight"]
        assert torch.equal(classifier, parent[f"{HEAD}.variants.bce.fc_cls.weight"])
    assert torch.equal(state["backbone.conv1.weight"], parent["backbone.conv1.weight"])
    assert not state[f"{HEAD}.statistics.beta_0_9.seen"].any()


def test_frozen_part_missing_from_the_checkpoint_is_named(parent, bank, tmp_path):
    cut = {key: value for key, value in parent.items() if not key.startswith("neck.")}
    with pytest.raises(RunError, match="lacks the frozen part neck"):
        load_trunk(bank, written(cut, tmp_path / "p.pth"))


def test_checkpoint_of_another_number_of_categories_is_refused(parent, bank, tmp_path):
    other = dict(parent)
    other[f"{HEAD}.fc_reg.weight"] = torch.zeros(8, 24)
    with pytest.raises(RunError, match="another detector or number of categories"):
        load_trunk(bank, written(other, tmp_path / "p.pth"))


def test_truncated_checkpoint_is_refused_in_a_sentence(parent, tmp_path):
    path = written(parent, tmp_path / "p.pth")
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"p\.pth: expected a whole checkpoint"):
        read_checkpoint(path)


def test_checkpoint_that_needs_code_is_refused(tmp_path):
    torch.save({"state_dict": {}, "hook": pytest.raises}, tmp_path / "p.pth")
    with pytest.raises(RunError, match="tensors and plain values"):
        read_checkpoint(tmp_path / "p.pth")


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(RunError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "absent.pth")


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/smaps")


def mapped_from(path):
    """Bytes of a file's mappings into this process by what Linux counts, such as `Rss`."""
    sizes = {}
    inside = False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = words[-1] == str(path)
        elif inside and words[-1] == "kB":
            name = words[0].rstrip(":")
            sizes[name] = sizes.get(name, 0) + 1024 * int(words[1])
    return sizes


@linux
def test_shared_weights_are_the_files_pages_and_train_as_copies_do(
    parent, bank, dataset_info, tmp_path
):
    path = written(parent, tmp_path / "p.pth")
    digest = sha256(path)
    load_trunk(bank, path)
    start = {name: value.clone() for name, value in bank.state_dict().items()}
    config = config_of(dataset_info, {"softmax": Softmax(method="softmax")})
    state = {k: v for k, v in start.items() if ".variants.bacl" not in k and ".stat" not in k}
    copied, shared = build(config, state), build(config, state)
    size = share_frozen(shared, path, shared.frozen_parts)
    parts = [p for part in shared._frozen for p in (*part.parameters(), *part.buffers())]
    assert size == sum(one.nbytes for one in parts)
    assert mapped_from(path)["Rss"] >= size
    for model in (copied, shared):
        train(config, model, 2)
    for name, value in copied.state_dict().items():
        assert torch.equal(value, shared.state_dict()[name]), name
    assert mapped_from(path)["Anonymous"] == 0
    for one in parts:
        one.data.add_(1)
    assert mapped_from(path)["Anonymous"] > 0 and sha256(path) == digest


def test_weights_that_are_not_the_files_are_not_shared(parent, bank, tmp_path):
    path = written(parent, tmp_path / "p.pth")
    assert share_frozen(bank, path, bank.frozen_parts) == 0  # all of them are larger by 1
    load_trunk(bank, path)
    bank.backbone.to(memory_format=torch.channels_last)
    laid_out = bank.backbone.layer1[0].conv2.weight
    before = laid_out.data_ptr()
    assert share_frozen(bank, path, bank.frozen_parts) > 0
    assert laid_out.data_ptr() == before


def hold_shared(folder, config):
    """For `on_ranks`: what a rank has of the file in memory, while all have it."""
    model, path = build(config), folder / "p.pth"
    load_trunk(model, path)
    share_frozen(model, path, model.frozen_parts)
    torch.distributed.barrier()
    sizes = mapped_from(path)
    torch.save(sizes, folder / f"{torch.distributed.get_rank()}.pth")
    torch.distributed.barrier()


@linux
@pytest.mark.slow
def test_ranks_have_shared_weights_in_memory_once(parent, dataset_info, tmp_path):
    path = written(parent, tmp_path / "p.pth")
    config = config_of(dataset_info, {"softmax": Softmax(method="softmax")})
    on_ranks(hold_shared, 2, tmp_path, config)
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pth")
        assert 0 < found["Pss"] < 0.6 * found["Rss"], path
