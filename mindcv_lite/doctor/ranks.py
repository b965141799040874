"""Whether the ranks add up as they should."""

import numpy as np

from mindcv_lite.device.ranks import World
from mindcv_lite.doctor.examination import Answer
from mindcv_lite.doctor.findings import Failed, NotRun


def exact_sums(world: World) -> Answer:
    """Counts up to 2**24 - 1, and the numbers of each rank at its index."""
    if world.size == 1:
        raise NotRun("one rank: start it with msrun")
    whole, part = 2**24 - 1, (2**24 - 1) // world.size
    mine = whole - part * (world.size - 1) if world.rank == 0 else part
    got = world.sum(np.array([mine, 1, world.rank == 0], np.float64))
    if got.tolist() != [whole, world.size, 1]:
        raise Failed(f"the sum over ranks is {got.tolist()}, expected {[whole, world.size, 1]}")
    rows = world.gather(np.array([world.rank, 1 / 3], np.float32))
    if not np.array_equal(rows, np.array([[rank, 1 / 3] for rank in range(world.size)], np.float32)):
        raise Failed(f"gathered from the ranks: {rows.tolist()}, expected each rank's number at its index")
    return f"{world.size} ranks: sums exact up to {whole}", {"ranks": world.size}
