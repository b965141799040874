"""What the doctor says of a machine: a laptop, and servers that are whole, half installed, or of the wrong versions."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mindcv_lite.doctor import environment as module
from mindcv_lite.doctor.environment import Machine, environment, mindspore_finding, numpy_finding
from mindcv_lite.doctor.findings import Finding
from tests.conftest import ROOT

# As these files are on servers: with more lines than are read, and keys in both cases.
DRIVER = """Version=24.1.0
ascendhal_version=7.35.23
compatible_version=[V100R001C15],[V100R001C17],[V100R001C18],[V100R001C19],[V100R001C20]
compatible_version_fw=[6.4.0,6.4.99],[7.0.0,7.5.99]
package_version=24.1.0
"""
FIRMWARE = "Version=7.5.0.3.220\nfirmware_version=1.0\npackage_version=24.1.0\n"
TOOLKIT = "package_name=Ascend-cann-toolkit\nversion=8.0.0\ninnerversion=V100R001C20SPC001B251\narch=aarch64\n"
COMPILER = 'Version=7.6.0.1.220\nversion_dir=8.0.0\nrequired_package_amct_acl_version="7.6"\n'
CFG = "# version: 1.0\ncompiler_running_version=[7.6.0.1.220:8.0.0]\ntoolkit_running_version=[7.6.0.1.220:8.0.0]\n"
NPU_SMI = """\
+------------------------------------------------------------------------------------------------+
| npu-smi 24.1.0                   Version: 24.1.0                                               |
+---------------------------+---------------+----------------------------------------------------+
| NPU   Name                | Health        | Power(W)    Temp(C)           Hugepages-Usage(page)|
| Chip                      | Bus-Id        | AICore(%)   Memory-Usage(MB)  HBM-Usage(MB)        |
+===========================+===============+====================================================+
| 0     910B1               | OK            | 89.1        32                0    / 0             |
| 0                         | 0000:C1:00.0  | 0           0    / 0          3437 / 65536         |
+===========================+===============+====================================================+
| 1     910B1               | OK            | 90.0        33                0    / 0             |
| 0                         | 0000:01:00.0  | 0           0    / 0          59351/ 65536         |
+===========================+===============+====================================================+
| NPU     Chip              | Process id    | Process name             | Process memory(MB)      |
+===========================+===============+====================================================+
| 1       0                 | 19341         | python                   | 58472                   |
+===========================+===============+====================================================+
"""
LATEST = "/usr/local/Ascend/ascend-toolkit/latest"
SOURCED = {
    "ASCEND_HOME_PATH": LATEST,
    "ASCEND_OPP_PATH": f"{LATEST}/opp",
    "LD_LIBRARY_PATH": f"{LATEST}/lib64:/usr/local/Ascend/driver/lib64",
    "PYTHONPATH": f"{LATEST}/opp/built-in/op_impl/ai_core/tbe",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


@pytest.fixture
def server(tmp_path) -> Machine:
    """8 NPUs with all that the published figures were measured with."""
    nodes = [*(f"davinci{number}" for number in range(8)), "davinci_manager", "devmm_svm", "hisi_hdc"]
    write(tmp_path, {f"/dev/{name}": "" for name in nodes})
    write(
        tmp_path,
        {
            "/etc/ascend_install.info": "UserName=HwHiAiUser\nDriver_Install_Path_Param=/opt/Ascend\n",
            "/opt/Ascend/driver/version.info": DRIVER,
            "/opt/Ascend/firmware/version.info": FIRMWARE,
            f"{LATEST}/aarch64-linux/ascend_toolkit_install.info": TOOLKIT,
            f"{LATEST}/compiler/version.info": COMPILER,
            f"{LATEST}/opp_kernel/version.info": COMPILER,
            f"{LATEST}/version.cfg": CFG,
            f"{LATEST}/../set_env.sh": "",
        },
    )
    return Machine(tmp_path, SOURCED, mindspore="2.5.0")


@pytest.fixture
def npu_smi(tmp_path) -> Callable[[str], dict[str, str]]:
    """A program of that name that is a shell script; what finds it in the environment."""

    def written(script: str) -> dict[str, str]:
        write(tmp_path, {"/bin/npu-smi": f"#!/bin/sh\n{script}\n"})
        (tmp_path / "bin/npu-smi").chmod(0o755)
        return {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}

    return written


def found(machine: Machine) -> dict[str, Finding]:
    findings = environment(machine)
    by_name = {finding.name: finding for finding in findings}
    assert len(by_name) == len(findings)
    return by_name


def verdict_and_text(machine: Machine, name: str) -> tuple[str, str]:
    finding = found(machine)[name]
    return finding.verdict, finding.text


# -------------------------------------------------------------------------------------------------- what is installed


def test_a_laptop_without_npus_is_in_order(tmp_path):
    findings = found(Machine(tmp_path, {}))
    assert {finding.verdict for finding in findings.values()} == {"ok", "noted"}
    assert findings["NPUs"].text.startswith("no NPU, no driver, no CANN: training uses the CPU")
    assert not {"driver", "CANN toolkit", "published figures"} & findings.keys()


def test_a_server_like_that_of_the_published_figures(server):
    findings = found(server)
    assert {name: finding.text for name, finding in findings.items() if finding.verdict == "ok"} == {
        **{name: findings[name].text for name in findings if name in ("Python", "NumPy") or name.startswith("disk")},
        "NPUs": "8: /dev/davinci0 /dev/davinci1 /dev/davinci2 /dev/davinci3 "
        "/dev/davinci4 /dev/davinci5 /dev/davinci6 /dev/davinci7",
        "driver": "24.1.0",
        "firmware": "7.5.0.3.220",
        "CANN toolkit": f"8.0.0 (compiler 7.6.0.1.220) in {LATEST}",
        "CANN kernels": "8.0.0",
        "CANN variables": "ASCEND_OPP_PATH, LD_LIBRARY_PATH, PYTHONPATH",
    }
    assert not [finding for finding in findings.values() if finding.verdict in ("failed", "not run")]
    assert findings["published figures"].text == "all four versions are those of MindCV's measurement"
    assert findings["NPUs"].figures == {"npus": 8}


def test_the_versions_that_differ_from_the_published_ones_are_named(server):
    text = found(replace(server, mindspore="2.7.0"))["published figures"].text
    assert text == "others here: MindSpore 2.7.0 (there 2.5.0)"


def test_cann_of_later_releases_lies_elsewhere_and_has_ops_for_kernels(tmp_path):
    home = "/usr/local/Ascend/cann"
    new = {name: text.replace("8.0.0", "8.5.0") for name, text in {"toolkit": TOOLKIT, "ops": TOOLKIT}.items()}
    write(tmp_path, {f"{home}/x86_64-linux/ascend_{name}_install.info": text for name, text in new.items()})
    write(tmp_path, {f"{home}/compiler/version.info": "Version=8.5.0.2.220\nversion_dir=8.5.0\n"})
    findings = found(Machine(tmp_path, {}, mindspore="2.8.0"))
    assert (findings["CANN toolkit"].verdict, findings["CANN kernels"].text) == ("ok", "8.5.0")
    assert findings["CANN toolkit"].text == f"8.5.0 (compiler 8.5.0.2.220) in {home}"


@pytest.mark.parametrize(("mindspore", "compilers"), [("2.10.0", "8.2, 8.3, 8.5, 9.0, 9.1"), ("2.7.2.post1", "8.5")])
def test_a_cann_that_mindspore_does_not_take(server, mindspore, compilers):
    verdict, text = verdict_and_text(replace(server, mindspore=mindspore), "CANN toolkit")
    assert verdict == "failed"
    assert "7.6.0.1.220" in text
    assert f"MindSpore {mindspore} takes compilers {compilers}: install a pair, by https://" in text


@pytest.mark.parametrize("mindspore", ["2.11.0", "2.6.0", ""])
def test_no_verdict_where_it_is_not_known_which_cann_mindspore_takes(server, mindspore):
    verdict, text = verdict_and_text(replace(server, mindspore=mindspore), "CANN toolkit")
    assert verdict == "noted"
    assert f"which CANN MindSpore {mindspore} takes is not known here" in text


def test_the_table_says_of_the_mindspore_here_what_its_own_file_says():
    """Which holds for every version that the tests are run on."""
    from importlib.metadata import distribution

    version = Machine().mindspore
    package = distribution("mindspore-dev" if ".dev" in version else "mindspore")
    source = Path(str(package.locate_file("mindspore/run_check/_check_version.py"))).read_text()
    ascend = source[source.index("class AscendEnvChecker") :]
    listed = ascend[ascend.index("self.version = [") :].partition("]")[0].partition("[")[2]
    assert module.CANN_OF_MINDSPORE[version] == tuple(each.strip(' "') for each in listed.split(","))


@pytest.mark.parametrize(
    ("gone", "name", "sentence"),
    [
        ("/opt/Ascend/driver", "driver", "none found; first step of https://www.mindspore.cn/install/en"),
        (f"{LATEST}/opp_kernel", "CANN kernels", "none found: install Ascend-cann-kernels-<chip>"),
        (LATEST, "CANN toolkit", f"ASCEND_HOME_PATH is {LATEST}, which is no folder"),
        ("/dev", "NPUs", "no /dev/davinci<number>; in a container: start it with --device=/dev/davinci0"),
        ("/dev/devmm_svm", "NPUs", "8, but /dev/devmm_svm missing: start the container with --device=/dev/devmm_svm"),
    ],
)
def test_a_missing_piece_is_a_sentence_with_what_gives_it(server, gone, name, sentence):
    path = server.at(gone)
    path.rename(path.with_name("elsewhere"))
    verdict, text = verdict_and_text(server, name)
    assert (verdict, text[: len(sentence)]) == ("failed", sentence)


def test_a_driver_without_cann(server):
    server.at(LATEST).rename(server.root / "elsewhere")
    verdict, text = verdict_and_text(replace(server, variables={}), "CANN toolkit")
    assert verdict == "failed"
    assert text.startswith("none found: install toolkit and kernels, by https://")


def test_firmware_that_a_container_does_not_show_is_no_fault(server):
    server.at("/opt/Ascend/firmware/version.info").unlink()
    assert verdict_and_text(server, "firmware")[0] == "noted"


def test_firmware_that_the_driver_does_not_take(server):
    write(server.root, {"/opt/Ascend/firmware/version.info": FIRMWARE.replace("7.5.0.3.220", "7.7.0.1.231")})
    verdict, text = verdict_and_text(server, "firmware")
    assert verdict == "failed"
    assert text.startswith("7.7.0.1.231, but the driver takes [6.4.0,6.4.99],[7.0.0,7.5.99]: install a pair")


def test_kernels_of_another_release_than_the_toolkit(server):
    write(server.root, {f"{LATEST}/opp_kernel/version.info": COMPILER.replace("8.0.0", "8.0.RC3")})
    verdict, text = verdict_and_text(server, "CANN kernels")
    assert (verdict, text[:36]) == ("failed", "8.0.RC3, but the toolkit is 8.0.0: i")


def test_cann_whose_script_was_not_sourced(server):
    verdict, text = verdict_and_text(replace(server, variables={"PYTHONPATH": "/mine"}), "CANN variables")
    assert verdict == "failed"
    assert text.startswith("ASCEND_OPP_PATH and LD_LIBRARY_PATH and PYTHONPATH without CANN's folders: source ")
    assert text.endswith("/usr/local/Ascend/ascend-toolkit/set_env.sh")


def test_npus_that_this_user_may_not_open(server, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: "davinci" not in str(path))
    verdict, text = verdict_and_text(server, "NPUs")
    group = server.at("/dev/davinci0").group()
    assert verdict == "failed"
    assert text.startswith(f"8, but this user may not open /dev/davinci0, of the group {group}: sudo usermod -a -G ")


def test_versions_of_mindspore_and_numpy():
    verdicts = {version: mindspore_finding(version).verdict for version in ("2.5.0", "2.6.0", "2.4.10", "2.11.0", "")}
    assert verdicts == {"2.5.0": "noted", "2.6.0": "noted", "2.4.10": "failed", "2.11.0": "failed", "": "failed"}
    for version in ("2.6.0.dev20250323", "2.7.0", "2.7.1.post1", "2.10.0"):
        assert mindspore_finding(version).verdict == "ok"
    verdicts = {version: numpy_finding(version).verdict for version in ("1.26.4", "2.0.0", "")}
    assert verdicts == {"1.26.4": "ok", "2.0.0": "failed", "": "failed"}


# ------------------------------------------------------------------------------------------------------------ npu-smi


def test_npu_smi_tells_health_and_memory(server, npu_smi):
    machine = replace(server, variables=SOURCED | npu_smi(f"cat <<'END'\n{NPU_SMI}END"))
    assert verdict_and_text(machine, "npu-smi") == ("ok", "910B1 OK 3437/65536 MB, 910B1 OK 59351/65536 MB")


def test_a_sick_npu_is_a_fault(server, npu_smi):
    sick = NPU_SMI.replace("| 1     910B1               | OK      ", "| 1     910B1               | Critical")
    machine = replace(server, variables=SOURCED | npu_smi(f"cat <<'END'\n{sick}END"))
    verdict, text = verdict_and_text(machine, "npu-smi")
    assert verdict == "failed"
    assert "910B1 Critical 59351/65536 MB: `npu-smi info -t health -i <number>` says why" in text


@pytest.mark.parametrize(("device_id", "asked"), [("0", True), ("3", False)])
def test_of_several_ranks_on_a_machine_the_first_alone_asks_npu_smi(server, npu_smi, device_id, asked):
    started = {"MS_ROLE": "MS_WORKER", "DEVICE_ID": device_id}
    machine = replace(server, variables=SOURCED | npu_smi(f"cat <<'END'\n{NPU_SMI}END") | started)
    assert ("npu-smi" in found(machine)) == asked


def test_npu_smi_that_fails_or_cannot_be_started(server, npu_smi):
    machine = replace(server, variables=SOURCED | npu_smi("echo dcmi model initialized failed; exit 255"))
    assert verdict_and_text(machine, "npu-smi") == ("failed", "exit status 255, says: dcmi model initialized failed")
    write(server.root, {"/bin/npu-smi": "#!/no/such/shell\n"})
    findings = found(machine)
    assert findings["npus"].verdict == "not run"
    assert {"driver", "CANN toolkit", "memory"} <= findings.keys()  # what else is known is told


def test_npu_smi_that_hangs_is_not_waited_for(server, npu_smi, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.2)
    machine = replace(server, variables=SOURCED | npu_smi("sleep 60 & trap '' TERM INT; sleep 60"))
    begin = time.monotonic()
    assert verdict_and_text(machine, "npu-smi")[0] == "failed"
    assert time.monotonic() - begin < 10


# ------------------------------------------------------------------------------------------------- host and variables


@pytest.mark.parametrize(
    "files",
    [
        {"/sys/fs/cgroup/memory.max": "4294967296\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"},
        {
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "4294967296\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_what_a_container_is_held_to(tmp_path, files):
    write(tmp_path, files | {"/proc/meminfo": "MemTotal:  8388608 kB\nMemFree: 1 kB\nMemAvailable:  6291456 kB\n"})
    findings = found(Machine(tmp_path, {}))
    assert findings["memory"].text == "6.0 GB of 8.0 GB available, but this container may use 4.0 GB"
    if len(os.sched_getaffinity(0)) > 1:
        assert "it uses 1 of them: the container's time is that of 0.5" in findings["processors"].text
    assert findings["processors"].figures["quota"] == 0.5


def test_no_limit_is_said_where_there_is_none(tmp_path):
    write(tmp_path, {"/sys/fs/cgroup/memory.max": "max\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"})
    findings = found(Machine(tmp_path, {}))
    assert "container" not in findings["memory"].text + findings["processors"].text
    assert findings["processors"].figures["bound"] == len(os.sched_getaffinity(0))


def test_a_disk_without_room_and_a_folder_that_is_closed(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not/yet/there"))
    assert verdict_and_text(Machine(tmp_path, {}), "disk: cache")[0] == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    assert verdict_and_text(Machine(tmp_path, {}), "disk: cache")[0] == "failed"
    monkeypatch.setattr(module, "LEAST_FREE", 2**60)
    assert "make room there" in verdict_and_text(Machine(tmp_path, {}), "disk: cache")[1]


def test_msrun_is_recognised_and_half_of_it_is_a_fault(tmp_path):
    started = {"MS_ROLE": "MS_WORKER", "MS_WORKER_NUM": "8", "MS_SCHED_HOST": "127.0.0.1", "MS_SCHED_PORT": "8118"}
    findings = found(Machine(tmp_path, started | {"RANK_ID": "3"}))
    assert findings["msrun"].text == "rank 3 of 8, scheduler 127.0.0.1:8118"
    assert findings["processors"].text.endswith("for this process, one of 8 ranks")
    del started["MS_SCHED_PORT"]
    verdict, text = verdict_and_text(Machine(tmp_path, started), "msrun")
    assert (verdict, text) == ("failed", "MS_ROLE is set without MS_SCHED_PORT: start with msrun")


def test_only_named_variables_show_their_values(tmp_path):
    given = {
        **{"HOME": "/home/someone", "HCCL_CONNECT_TIMEOUT": "1200", "ASCEND_CACHE_PATH": "/home/someone/kernels"},
        **{"HCCL_OF_TOMORROW": "secret", "ASCEND_ACCESS_KEY": "secret", "AWS_SECRET_ACCESS_KEY": "secret"},
    }
    findings = environment(Machine(tmp_path, given))
    text = next(finding.text for finding in findings if finding.name == "variables")
    shown = "HCCL_CONNECT_TIMEOUT=1200", "ASCEND_ACCESS_KEY (value not shown), HCCL_OF_TOMORROW (value not shown)"
    assert text == f"ASCEND_CACHE_PATH=~/kernels, {', '.join(shown)}"
    assert "secret" not in str(findings)


# ---------------------------------------------------------------------------------------------------------- as a whole


def test_it_takes_a_moment_and_imports_no_mindspore():
    program = (
        "import sys, time; begin = time.monotonic(); from mindcv_lite.doctor.environment import environment; "
        "assert environment(); assert 'mindspore' not in sys.modules; print(time.monotonic() - begin)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1


def test_files_that_make_no_sense_are_no_end(server):
    for path in [path for path in server.root.rglob("*") if path.is_file()]:
        path.write_bytes(b"\xff=\xfe\n[,\n=" + os.urandom(50))
    findings = environment(server)
    assert "not run" not in {finding.verdict for finding in findings}
    assert {"driver", "CANN toolkit", "CANN kernels", "memory", "variables"} <= {finding.name for finding in findings}
