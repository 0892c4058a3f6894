"""What a forward pass keeps for backward."""

from torch.autograd.graph import saved_tensors_hooks


def saved_storages(model, forward):
    """(address, bytes) of what `forward()` keeps, but for the model's own weights and state."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        found = forward()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    del found
    return {at: size for at, size in storages.items() if at not in own}
