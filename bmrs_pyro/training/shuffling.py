"""Setting the epoch of a loader, so that it draws that epoch's order."""

from __future__ import annotations

__all__ = ["set_epoch"]


def set_epoch(loader: object, epoch: int) -> None:
    """Call ``set_epoch`` of a loader, its data set and its samplers, if they have this method.

    A :class:`torch.utils.data.DataLoader` does not pass the epoch to its samplers. Without this call a
    :class:`~torch.utils.data.DistributedSampler` serves the first epoch's order in every epoch.
    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    sources = (
        loader,
        getattr(loader, "dataset", None),
        getattr(loader, "sampler", None),
        batch_sampler,
        getattr(batch_sampler, "sampler", None),
    )
    for source in {id(source): source for source in sources}.values():
        if callable(begin := getattr(source, "set_epoch", None)):
            begin(epoch)
