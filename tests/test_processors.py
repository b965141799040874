"""How many processors a process may use: affinity, a container's time, OMP_NUM_THREADS."""

import pytest

from mindcv_lite.processors import cpu_quota, usable_processors


@pytest.fixture
def cgroup(tmp_path):
    """Writes the files of a control group, and gives their folder."""

    def cgroup(**files: str):
        for name, text in files.items():
            path = tmp_path / name.replace("cpu_", "cpu/cpu.cfs_").replace("max", "cpu.max")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return tmp_path

    return cgroup


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"max": "150000 100000\n"}, 1.5),
        ({"max": "max 100000\n"}, None),
        ({"cpu_quota_us": "400000\n", "cpu_period_us": "100000\n"}, 4),
        ({"cpu_quota_us": "-1\n", "cpu_period_us": "100000\n"}, None),
        ({"cpu_quota_us": "0\n", "cpu_period_us": "0\n"}, None),
        ({"max": ""}, None),
    ],
)
def test_the_quota_of_a_container(cgroup, files, quota):
    assert cpu_quota(cgroup(**files)) == quota


@pytest.mark.parametrize(
    ("affinity", "threads", "ranks", "usable", "why"),
    [
        (1, "", 1, 1, "bound"),
        (8, "", 1, 4, "container"),  # 3.5, rounded up
        (8, "", 8, 1, "container"),
        (8, "3", 1, 3, "OMP_NUM_THREADS"),
        (8, "2,1", 1, 2, "OMP_NUM_THREADS"),
        (8, "0", 1, 4, "container"),
        (8, "all", 1, 4, "container"),
        (2, "16", 1, 2, "bound"),
    ],
)
def test_the_tightest_limit_counts(cgroup, affinity, threads, ranks, usable, why):
    found, reason = usable_processors(affinity, {"OMP_NUM_THREADS": threads}, ranks, cgroup(max="350000 100000\n"))
    assert found == usable
    assert why in reason


def test_what_msrun_hands_on_is_no_limit(cgroup):
    assert usable_processors(24, {"OMP_NUM_THREADS": "1", "MS_ROLE": "MS_WORKER"}, 8, cgroup())[0] == 24
