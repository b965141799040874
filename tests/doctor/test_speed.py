"""What the doctor reads out of MindSpore's profiles."""

import pytest

from mindcv_lite.doctor.findings import Failed
from mindcv_lite.doctor.recipes import Bench, recipe_of
from mindcv_lite.doctor.speed import Speed, most_expensive

# As MindSpore 2.10.0 writes it for a CPU.
CPU_TABLE = """op_type,type_occurrences,execution_frequency(per-step),total_compute_time,avg_time(ms),percent
ReLU,20,1,20.5,1.00672,0.0199485
Conv2D,40,2,989.0,24.7297,0.980051
"""
# The columns of CANN's manual; no NPU has written this.
NPU_TABLE = """Device_id,OP Type,Core Type,Count,Total Time(us),Min Time(us),Avg Time(us),Max Time(us),Ratio(%)
0,TransData,AI_VECTOR_CORE,60,1500.0,20,25,30,30.0
0,Conv2D,AI_CORE,1040,3500.0,2,3,4,70.0
"""


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("cpu_op_type_info_0.csv", CPU_TABLE, [("Conv2D", 40, 989.0), ("ReLU", 20, 20.5)]),
        ("op_statistic_20250101.csv", NPU_TABLE, [("Conv2D", 1040, 3.5), ("TransData", 60, 1.5)]),
    ],
)
def test_the_operators_of_a_profile_come_in_the_order_of_their_time(tmp_path, name, table, expected):
    folder = tmp_path / "vm_1_ascend_ms/FRAMEWORK"
    folder.mkdir(parents=True)
    (folder / name).write_text(table)
    assert most_expensive(tmp_path) == expected


def test_a_profile_without_operators_is_told(tmp_path):
    with pytest.raises(Failed, match="no table of operators in it"):
        most_expensive(tmp_path)


def test_the_table_has_ten_operators_and_their_share_of_all(tmp_path, world):
    speed = Speed(Bench(world(recipe_of(device_target="CPU")), tmp_path, distribute=False))
    speed.operators = [("Conv2D", 40, 75.0), *((f"Op{number}", 1, 1.25) for number in range(20))]
    lines = list(speed.table())
    assert [line.split() for line in lines[:2]] == [
        ["operator", "times", "ms", "share"],
        ["Conv2D", "40", "75.0", "75.0%"],
    ]
    assert len(lines) == 11
