"""Ranks of distributed training: processes joined by gloo, forked from one that has the modules."""

import multiprocessing

import torch

# Torch, MMDetection and the package take each process seconds to import. A fork of pytest itself
# would have them too, but autograd refuses to work in the child of a process that has used it.
multiprocessing.set_forkserver_preload(
    ["bacl.register", "mmdet.apis", "bacl.evaluation", "bacl_platform.train.worker"]
)


def on_ranks(worker, ranks, folder, *args):
    """Run `worker(folder, *args)` in `ranks` processes joined by gloo."""
    rendezvous = f"file://{folder}/rendezvous"
    torch.multiprocessing.start_processes(
        _join,
        (ranks, rendezvous, worker, folder, args),
        nprocs=ranks,
        start_method="forkserver",
    )


def _join(rank, ranks, rendezvous, worker, folder, args):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=ranks
    )
    try:
        worker(folder, *args)
    finally:
        torch.distributed.destroy_process_group()
