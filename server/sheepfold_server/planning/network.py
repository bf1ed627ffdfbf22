"""Seconds that the network alone takes for a step, by where the shards run.

n workers; k machines with nothing but shards; `up` and `down`: bytes of the whole model in either direction;
links in bytes per second in each direction. Duplex: pushes of one tensor go along with pulls of another.
Phased: all pushes, then all pulls, as a step must that is committed on all shards or on none.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Links:
    """Of `workers` machines and of `servers` more that hold shards alone."""

    workers: int
    servers: int
    worker_link: float
    server_link: float


def all_reduce_s(up: float, down: float, links: Links) -> float:
    """A ring of n ranks: each sends and receives (n-1)/n of the gradient, then of the sums."""
    return (links.workers - 1) * (up + down) / (links.workers * links.worker_link)


def colocated_s(up: float, down: float, links: Links) -> float:
    """One shard on each worker's machine: as the ring, duplex or phased."""
    return all_reduce_s(up, down, links)


def dedicated_s(up: float, down: float, links: Links, is_duplex: bool, imbalance: float = 1.0) -> float:
    """Shards on k machines of their own; `imbalance` = largest shard / mean shard."""
    return mixed_s(0.0, up, down, links, is_duplex, imbalance)


def mixed_s(
    share: float, up: float, down: float, links: Links, is_duplex: bool, imbalance: float = 1.0
) -> float:
    """`share` of the model on each worker's machine, the rest on the k others; 0 <= share <= 1/n."""
    n, k = links.workers, links.servers
    rest = 0.0 if n * share >= 1.0 else 1.0 - n * share
    if rest and not k:
        raise ValueError(f"{rest:g} of the model is on no machine: with 0 servers the share is 1/{n}")
    on_server = imbalance * rest / k if rest else 0.0
    if is_duplex:
        larger, smaller = max(up, down), min(up, down)
        at_worker = (larger * (1.0 - share) + smaller * (n - 1) * share) / links.worker_link
        return max(at_worker, n * larger * on_server / links.server_link)
    at_worker = max(1.0 - share, (n - 1) * share) / links.worker_link
    return (up + down) * max(at_worker, n * on_server / links.server_link)


def best_share_duplex(up: float, down: float, links: Links) -> float:
    """The share on each worker's machine that makes `mixed_s` least, duplex, for even shards.

    Source: reduces for up = down and equal links to BytePS (Jiang et al., OSDI 2020), (n-k)/(n^2+kn-2k).
    """
    n = links.workers
    kappa = links.servers * links.server_link / links.worker_link
    larger, smaller = max(up, down), min(up, down)
    extra = smaller * (n - 1) - larger
    if extra < 0 or not links.servers:
        return 1.0 / n
    if kappa >= n:
        return 0.0
    return larger * (n - kappa) / (n * n * larger + kappa * extra)


def best_share_phased(workers: int) -> float:
    """Phased, machines with shards alone buy no time: each worker's link carries (n-1)/n anyway."""
    return 1.0 / workers
