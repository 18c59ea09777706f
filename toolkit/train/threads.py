"""How many threads PyTorch has: no more than there are cores for them."""

import torch

from toolkit.processes import cores


def share_cores(processes: int = 1) -> None:
    """Give PyTorch no more threads than this process may use cores, beside others like it.

    PyTorch itself knows what OMP_NUM_THREADS and affinity say, but not a cgroup's quota.

    Args:
        processes: how many do the same on this machine.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cores() // processes)))
