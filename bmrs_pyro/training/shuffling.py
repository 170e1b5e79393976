"""Telling a loader which epoch begins, so that it draws that epoch's order."""

from __future__ import annotations

__all__ = ["set_epoch"]


def set_epoch(loader: object, epoch: int) -> None:
    """Call ``set_epoch`` of a loader and of what it draws its order from, where they have it.

    A :class:`torch.utils.data.DataLoader` passes nothing on to its samplers: without this call a
    :class:`~torch.utils.data.DistributedSampler` serves the first epoch's order in every epoch.

    Args:
        loader: batches, such as a DataLoader or :class:`bmrs_pyro.data.Batches`.
        epoch: the number of the epoch.
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
