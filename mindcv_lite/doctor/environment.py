"""What this machine is made of: versions, NPUs, processors, memory, variables, disks. Nothing is changed for it.

No reading imports MindSpore or raises; all together take a moment, and `npu-smi` has `SECONDS` to answer.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mindcv_lite import __version__
from mindcv_lite.device.versions import MINDSPORE, PYTHON, numbers, numpy_fault, tested_range, was_run_on
from mindcv_lite.doctor.findings import Finding, Verdict
from mindcv_lite.files import cache_folder
from mindcv_lite.processors import CGROUP, cpu_quota, usable_processors
from mindcv_lite.program import mindspore_version, version_of

# MindCV's own table of what it measured the published figures with. (CANN's own files call 8.0.0.beta1 "8.0.0".)
PUBLISHED = {"MindSpore": "2.5.0", "driver": "24.1.0", "firmware": "7.5.0.3.220", "CANN toolkit": "8.0.0.beta1"}
# The CANN that each MindSpore takes without a warning, from mindspore/run_check/_check_version.py of its wheel; for
# 2.5.0, which was not at hand, that of the table above. These are versions of CANN's compiler: that of CANN 8.0 is
# 7.6, that of 8.1 is 7.7; from 8.2 on they are the same.
CANN_OF_MINDSPORE = {
    "2.5.0": ("7.6",),
    "2.6.0.dev20250323": ("7.6", "7.7"),
    "2.7.0": ("7.7", "7.8", "8.2"),
    "2.7.1": ("7.8", "8.2", "8.3"),
    "2.7.2": ("8.5",),
    "2.8.0": ("8.2", "8.3", "8.5"),
    "2.9.0": ("8.2", "8.3", "8.5", "9.0"),
    "2.10.0": ("8.2", "8.3", "8.5", "9.0", "9.1"),
}
GUIDE = "https://www.mindspore.cn/install/en, Ascend, section 'Installing Ascend AI Processor Package'"

SECONDS = 5  # for `npu-smi info`, which a sick driver keeps for ever
# In what it says, two lines for each chip, of which name, health, used and whole memory (MB) are taken:
# | 0     910B3               | OK            | 101.8       43                0    / 0             |
# | 0                         | 0000:C1:00.0  | 0           0    / 0          3318 / 65536         |
CHIP = re.compile(r"^\| *\d+ +(\S+) *\| *(\S+) *\|.*\n\|.*\| *\S+ *\|.*?(\d+) */ *(\d+) *\|$", re.MULTILINE)
LEAST_FREE = 2**30  # bytes: the recipes for ImageNet keep 30 checkpoints of 10 to 22 MB

# Values are shown of these variables and no others: what else the environment holds may be secret.
MSRUN = ("MS_ROLE", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")
VARIABLES = (
    *(*MSRUN, "MS_NODE_ID", "RANK_ID", "DEVICE_ID", "RANK_SIZE", "RANK_TABLE_FILE", "MS_TOPO_TIMEOUT"),
    *("MS_COMPILER_CACHE_ENABLE", "MS_COMPILER_CACHE_PATH", "MS_ASCEND_CHECK_OVERFLOW_MODE", "MS_ALLOC_CONF"),
    *("GLOG_v", "GLOG_log_dir", "GLOG_logtostderr", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS"),
    *("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME", "ASCEND_OPP_PATH", "ASCEND_AICPU_PATH", "ASCEND_CUSTOM_OPP_PATH"),
    *("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES", "ASCEND_DEVICE_ID", "ASCEND_LAUNCH_BLOCKING"),
    *("ASCEND_CACHE_PATH", "ASCEND_WORK_PATH", "ASCEND_PROCESS_LOG_PATH", "ASCEND_GLOBAL_LOG_LEVEL"),
    *("ASCEND_GLOBAL_EVENT_ENABLE", "ASCEND_SLOG_PRINT_TO_STDOUT"),
    *("HCCL_CONNECT_TIMEOUT", "HCCL_EXEC_TIMEOUT", "HCCL_IF_IP", "HCCL_IF_BASE_PORT", "HCCL_SOCKET_IFNAME"),
    *("HCCL_SOCKET_FAMILY", "HCCL_WHITELIST_DISABLE", "HCCL_BUFFSIZE", "HCCL_ALGO", "HCCL_DETERMINISTIC"),
    *("HCCL_OP_EXPANSION_MODE", "HCCL_INTRA_PCIE_ENABLE", "HCCL_INTRA_ROCE_ENABLE", "HCCL_RDMA_TIMEOUT"),
)


@dataclass(frozen=True)
class Machine:
    """Where to read: `root` is what paths begin at, `variables` the environment of the process."""

    root: Path = Path("/")
    variables: Mapping[str, str] = field(default_factory=lambda: os.environ)
    mindspore: str = field(default_factory=mindspore_version)

    def at(self, path: str | Path) -> Path:
        return self.root / str(path).lstrip("/")

    def read(self, path: str | Path) -> str:
        """The first part of a text file; nothing if it cannot be read."""
        file = self.at(path)
        try:
            return file.read_bytes()[:100_000].decode(errors="replace") if file.is_file() else ""
        except OSError:
            return ""

    def fields(self, path: str | Path) -> dict[str, str]:
        """The lines `key=value` of a file, keys in lower case: some of CANN's files say `Version`, some `version`."""
        lines = (line.partition("=") for line in self.read(path).splitlines())
        return {key.strip().lower(): value.strip().strip('"') for key, equals, value in lines if equals}

    @property
    def npus(self) -> list[int]:
        names = (path.name.removeprefix("davinci") for path in self.at("/dev").glob("davinci[0-9]*"))
        return sorted(int(name) for name in names if name.isdigit())

    @property
    def has_first_rank(self) -> bool:
        """Whether msrun started this process as the first one of the machine, or did not start it."""
        return "MS_ROLE" not in self.variables or self.variables.get("DEVICE_ID", "0") == "0"

    @property
    def toolkit(self) -> Path | None:
        """The folder of CANN that is used, or else one that is there."""
        opp = self.variables.get("ASCEND_OPP_PATH")
        told = (self.variables.get("ASCEND_HOME_PATH"), self.variables.get("ASCEND_TOOLKIT_HOME"))
        homes = ("/usr/local/Ascend", f"{self.variables.get('HOME', '')}/Ascend")
        usual = (Path(home, folder) for home in homes for folder in ("ascend-toolkit/latest", "cann"))
        folders = (*(Path(path) for path in told if path), *([Path(opp).parent] if opp else []), *usual)
        return next((folder for folder in folders if self.at(folder).is_dir()), None)

    @property
    def driver(self) -> dict[str, str]:
        return self.fields(f"{self._driver_home}/driver/version.info")

    @property
    def firmware(self) -> dict[str, str]:
        return self.fields(f"{self._driver_home}/firmware/version.info")

    @property
    def _driver_home(self) -> str:
        return self.fields("/etc/ascend_install.info").get("driver_install_path_param") or "/usr/local/Ascend"

    def shown(self, path: str | Path) -> str:
        """The path, without the user's name."""
        home = self.variables.get("HOME", "").rstrip("/")
        return re.sub(rf"^{re.escape(home)}(?=/|$)", "~", str(path)) if home else str(path)


def environment(machine: Machine | None = None) -> list[Finding]:
    """All that there is to say of this machine, in the order in which it is to be read."""
    machine = machine or Machine()
    findings = []
    for reading in (packages, npus, cann, published, host, disks, variables):
        try:
            findings += reading(machine)
        except Exception as error:  # what else is known of a sick machine is to be told all the same
            findings.append(Finding(reading.__name__, "not run", f"cannot be read: {type(error).__name__}: {error}"))
    return findings


def packages(machine: Machine) -> Iterator[Finding]:
    yield Finding("mindcv_lite", "noted", __version__)
    oldest, newest = PYTHON
    text = ".".join(map(str, sys.version_info[:3]))
    if oldest <= sys.version_info[:2] <= newest:
        yield Finding("Python", "ok", text)
    else:
        yield Finding("Python", "failed", f"{text}: this project takes 3.{oldest[1]} to 3.{newest[1]}")
    yield numpy_finding(version_of("numpy"))
    yield mindspore_finding(machine.mindspore)


def numpy_finding(version: str) -> Finding:
    fault = numpy_fault(version) if version else "missing: pip install 'numpy<2'"
    return Finding("NumPy", "failed", fault) if fault else Finding("NumPy", "ok", version)


def mindspore_finding(version: str) -> Finding:
    if not version:
        oldest = ".".join(map(str, MINDSPORE[0]))
        return Finding("MindSpore", "failed", f"missing: pip install 'mindspore>={oldest}', after {GUIDE}")
    if was_run_on(version):
        return Finding("MindSpore", "ok", f"{version}; this project was run on {tested_range()}, on CPUs")
    if (2, 5) <= numbers(version)[:2] < MINDSPORE[0]:
        return Finding("MindSpore", "noted", f"{version}: this project was not run on it, but on {tested_range()}")
    return Finding("MindSpore", "failed", f"{version}: this project takes {tested_range()}")


def npus(machine: Machine) -> Iterator[Finding]:
    """Devices, driver and firmware."""
    if not _uses_ascend(machine):
        text = f"no NPU, no driver, no CANN: training uses the CPU; to install them: {GUIDE}"
        yield Finding("NPUs", "noted", text, {"npus": 0})
        return
    yield _devices_finding(machine)
    yield _driver_finding(machine)
    yield _firmware_finding(machine)
    program = shutil.which("npu-smi", path=machine.variables.get("PATH", ""))
    if program and machine.has_first_rank:  # eight at once might all have to wait too long
        yield _npu_smi_finding(program)


def _uses_ascend(machine: Machine) -> bool:
    """Whether anything at all of Ascend is here."""
    return bool(machine.npus or machine.driver or machine.toolkit or "ASCEND_HOME_PATH" in machine.variables)


def _devices_finding(machine: Machine) -> Finding:
    numbered = [f"/dev/davinci{number}" for number in machine.npus]
    figures = {"npus": len(numbered)}
    if not numbered:
        advice = "in a container: start it with --device=/dev/davinci0 and so on; else see what `npu-smi info` says"
        return Finding("NPUs", "failed", f"no /dev/davinci<number>; {advice}", figures)
    needed = ("/dev/davinci_manager", "/dev/devmm_svm", "/dev/hisi_hdc")
    if missing := [name for name in needed if not machine.at(name).exists()]:
        advice = "start the container with " + " ".join(f"--device={name}" for name in missing)
        return Finding("NPUs", "failed", f"{len(numbered)}, but {' and '.join(missing)} missing: {advice}", figures)
    closed = [name for name in (*numbered, *needed) if not os.access(machine.at(name), os.R_OK | os.W_OK)]
    if closed:
        group = _group_of(machine.at(closed[0]))
        advice = f"sudo usermod -a -G {group} $USER, then log in again"
        text = f"{len(numbered)}, but this user may not open {closed[0]}, of the group {group}: {advice}"
        return Finding("NPUs", "failed", text, figures)
    return Finding("NPUs", "ok", f"{len(numbered)}: {' '.join(numbered)}", figures)


def _group_of(path: Path) -> str:
    try:
        return path.group()
    except KeyError:  # a container does not know the groups of its host
        return str(path.stat().st_gid)


def _driver_finding(machine: Machine) -> Finding:
    version = machine.driver.get("version")
    if version:
        return Finding("driver", "ok", version)
    where = "in a container, mount /usr/local/Ascend/driver"
    return Finding("driver", "failed", f"none found; first step of {GUIDE}; {where}")


def _firmware_finding(machine: Machine) -> Finding:
    """The driver's file says which firmware it takes: `compatible_version_fw=[7.0.0,7.5.99]`, or several of these."""
    version, taken = machine.firmware.get("version"), machine.driver.get("compatible_version_fw", "")
    if not version:
        return Finding("firmware", "noted", "version.info is not here; a container shows it if it is mounted")
    ranges = [(numbers(low), numbers(high)) for low, high in re.findall(r"\[([^],]*),([^]]*)\]", taken)]
    if ranges and not any(low <= numbers(version)[:3] <= high for low, high in ranges):
        return Finding("firmware", "failed", f"{version}, but the driver takes {taken}: install a pair, by {GUIDE}")
    return Finding("firmware", "ok", version)


def _npu_smi_finding(program: str) -> Finding:
    """Health and memory, by the driver's own program."""
    output, status = _output_of([program, "info"])
    if status is None:
        return Finding("npu-smi", "failed", f"no answer in {SECONDS} s: the driver hangs; see `dmesg`, or reboot")
    chips = CHIP.findall(output)
    if status or not chips:
        said = next((line for line in output.splitlines() if line.strip()), "nothing")
        return Finding("npu-smi", "failed", f"exit status {status}, says: {said[:200]}")
    figures = {"chips": chips}
    text = ", ".join(f"{name} {health} {used}/{memory} MB" for name, health, used, memory in chips)
    if any(health != "OK" for _, health, *_ in chips):
        return Finding("npu-smi", "failed", f"{text}: `npu-smi info -t health -i <number>` says why", figures)
    return Finding("npu-smi", "ok", text, figures)


def _output_of(command: list[str]) -> tuple[str, int | None]:
    """What a program says, and its exit status: None if it does not end in time. It is not waited for any longer: in
    the kernel it may be beyond any signal."""
    with tempfile.TemporaryFile() as file:
        program = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            program.wait(SECONDS)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
        file.seek(0)
        return file.read().decode(errors="replace"), program.returncode


def cann(machine: Machine) -> Iterator[Finding]:
    """The toolkit, the binary kernels, and the variables by which MindSpore finds both."""
    if not _uses_ascend(machine):
        return
    told, toolkit = machine.variables.get("ASCEND_HOME_PATH"), machine.toolkit
    if told and not machine.at(told).is_dir():
        yield Finding("CANN toolkit", "failed", f"ASCEND_HOME_PATH is {machine.shown(told)}, which is no folder")
        return
    if toolkit is None:
        yield Finding("CANN toolkit", "failed", f"none found: install toolkit and kernels, by {GUIDE}")
        return
    yield _toolkit_finding(machine, toolkit)
    yield _kernels_finding(machine, toolkit)
    yield _paths_finding(machine, toolkit)


def _toolkit_finding(machine: Machine, toolkit: Path) -> Finding:
    """Whether MindSpore takes this CANN. MindSpore goes by the compiler's version, the user by the release's name."""
    release, compiler = _cann_release(machine, toolkit), _cann_compiler(machine, toolkit)
    text = f"{release or 'of unknown version'} (compiler {compiler or 'unknown'}) in {machine.shown(toolkit)}"
    figures = {"release": release, "compiler": compiler}
    taken = CANN_OF_MINDSPORE.get(machine.mindspore.partition(".post")[0])
    if taken is None or not compiler:
        what = f"which CANN MindSpore {machine.mindspore} takes" if compiler else "whether MindSpore takes it"
        return Finding("CANN toolkit", "noted", f"{text}; {what} is not known here, see {GUIDE}", figures)
    if ".".join(compiler.split(".")[:2]) not in taken:
        wanted = f"MindSpore {machine.mindspore} takes compilers {', '.join(taken)}"
        return Finding("CANN toolkit", "failed", f"{text}, but {wanted}: install a pair, by {GUIDE}", figures)
    return Finding("CANN toolkit", "ok", text, figures)


def _cann_release(machine: Machine, toolkit: Path) -> str:
    """The name of the release, such as 8.0.0 or 8.2.RC1."""
    for name in (*(f"{arch}-linux/ascend_toolkit_install.info" for arch in ("aarch64", "x86_64")), "version.info"):
        if version := machine.fields(toolkit / name).get("version"):
            return version
    listed = machine.fields(toolkit / "version.cfg").get("toolkit_running_version", "")  # [7.6.0.1.220:8.0.0]
    return listed.strip("[]").rpartition(":")[2]


def _cann_compiler(machine: Machine, toolkit: Path) -> str:
    """The version of the compiler, such as 7.6.0.1.220, where MindSpore reads it."""
    listed = machine.fields(toolkit / "version.cfg").get("compiler_running_version", "")
    return machine.fields(toolkit / "compiler/version.info").get("version") or listed.strip("[]").partition(":")[0]


def _kernels_finding(machine: Machine, toolkit: Path) -> Finding:
    """The binary kernels, opp_kernel up to CANN 8.3 and ops from 8.5 on, which must be of the toolkit's release."""
    old = machine.fields(toolkit / "opp_kernel/version.info")
    new = (machine.fields(toolkit / f"{arch}-linux/ascend_ops_install.info") for arch in ("aarch64", "x86_64"))
    version = next((fields["version"] for fields in new if fields.get("version")), old.get("version_dir"))
    release = _cann_release(machine, toolkit)
    package = "Ascend-cann-kernels-<chip> (from CANN 8.5 on: Ascend-cann-<chip>-ops)"
    if not version:
        return Finding("CANN kernels", "failed", f"none found: install {package} of {release}, by {GUIDE}")
    if release and version != release:
        return Finding("CANN kernels", "failed", f"{version}, but the toolkit is {release}: install {package} of it")
    return Finding("CANN kernels", "ok", version)


def _paths_finding(machine: Machine, toolkit: Path) -> Finding:
    """What MindSpore looks for in the environment (`AscendEnvChecker._check_env`), which CANN's `set_env.sh` sets."""
    needed = {"ASCEND_OPP_PATH": "/opp", "LD_LIBRARY_PATH": "/lib64", "PYTHONPATH": "opp/built-in/op_impl/ai_core/tbe"}
    lacking = [name for name, part in needed.items() if part not in machine.variables.get(name, "")]
    if not lacking:
        return Finding("CANN variables", "ok", ", ".join(needed))
    scripts = (folder / "set_env.sh" for folder in (toolkit, toolkit.parent))
    script = next((path for path in scripts if machine.at(path).is_file()), toolkit / "set_env.sh")
    text = f"{' and '.join(lacking)} without CANN's folders: source {machine.shown(script)}"
    return Finding("CANN variables", "failed", text)


def published(machine: Machine) -> Iterator[Finding]:
    """How this machine differs from the one of the published figures."""
    if not _uses_ascend(machine):
        return
    toolkit = machine.toolkit
    here = {
        "MindSpore": machine.mindspore,
        "driver": machine.driver.get("version", ""),
        "firmware": machine.firmware.get("version", ""),
        "CANN toolkit": _cann_release(machine, toolkit) if toolkit else "",
    }
    same = [name for name in PUBLISHED if here[name] and PUBLISHED[name].startswith(here[name])]
    others = [f"{name} {here[name] or 'unknown'} (there {PUBLISHED[name]})" for name in PUBLISHED if name not in same]
    text = f"others here: {', '.join(others)}" if others else "all four versions are those of MindCV's measurement"
    yield Finding("published figures", "noted", text, here)


def host(machine: Machine) -> Iterator[Finding]:
    """Memory and processors, with what a container is held to."""
    meminfo = dict(re.findall(r"^(\w+): *(\d+) kB", machine.read("/proc/meminfo"), re.MULTILINE))
    total, free = (int(meminfo.get(name, 0)) * 1024 for name in ("MemTotal", "MemAvailable"))
    v1, v2 = "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"
    limit = next((int(text) for text in (machine.read(path).strip() for path in (v2, v1)) if text.isdigit()), total)
    held = f", but this container may use {size(limit)}" if limit < total else ""
    figures = {"total": total, "available": free, "limit": min(limit, total)}
    yield Finding("memory", "noted", f"{size(free)} of {size(total)} available{held}", figures)

    bound, processors, quota = len(os.sched_getaffinity(0)), os.cpu_count() or 1, cpu_quota(machine.at(CGROUP))
    ranks = machine.variables.get("MS_WORKER_NUM", "") if "MS_ROLE" in machine.variables else ""
    text = f"{bound} of {processors} for this process" + (f", one of {ranks} ranks" if ranks else "")
    figures = {"bound": bound, "processors": processors, "quota": quota}
    usable, why = usable_processors(bound, machine.variables, int(ranks or 1), machine.at(CGROUP))
    if usable < bound:
        text += f"; it uses {usable} of them: {why}"
    yield Finding("processors", "noted", text, figures)


def disks(machine: Machine) -> Iterator[Finding]:
    """Room where a run writes."""
    get, home = machine.variables.get, machine.variables.get("HOME", "/")
    folders = {"working folder": os.getcwd(), "cache": cache_folder(""), "temporary files": tempfile.gettempdir()}
    if _uses_ascend(machine):
        folders["CANN's kernels"] = get("ASCEND_CACHE_PATH") or f"{home}/atc_data"
        folders["CANN's log"] = get("ASCEND_PROCESS_LOG_PATH") or f"{home}/ascend/log"
    if path := get("MS_COMPILER_CACHE_PATH"):
        folders["MindSpore's graphs"] = path
    for name, path in folders.items():
        yield _disk_finding(f"disk: {name}", Path(path), machine.shown(path))
    usage = shutil.disk_usage("/dev/shm")
    yield Finding("shared memory", "noted", f"{size(usage.free)} of {size(usage.total)} free", {"free": usage.free})


def _disk_finding(name: str, path: Path, shown: str) -> Finding:
    """`path` need not exist yet."""
    there = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    verdict: Verdict = "ok"
    text = f"{size(free)} free at {shown}"
    if free < LEAST_FREE:
        verdict, text = "failed", f"{text}: less than {size(LEAST_FREE)}; make room there"
    elif not there.is_dir() or not os.access(there, os.W_OK):
        verdict, text = "failed", f"{shown}: this user cannot write there"
    return Finding(name, verdict, text, {"free": free})


def variables(machine: Machine) -> Iterator[Finding]:
    """How the process was started."""
    given = machine.variables
    missing = [name for name in MSRUN if name not in given]
    if "MS_ROLE" not in given:
        yield Finding("msrun", "noted", "not started by msrun: one process, one device")
    elif missing:
        yield Finding("msrun", "failed", f"MS_ROLE is set without {' and '.join(missing)}: start with msrun")
    else:
        text = f"rank {given.get('RANK_ID', 'unknown')} of {given['MS_WORKER_NUM']}"
        yield Finding("msrun", "ok", f"{text}, scheduler {given['MS_SCHED_HOST']}:{given['MS_SCHED_PORT']}")
    shown = {name: given[name] for name in VARIABLES if name in given}
    others = sorted(name for name in given if name.startswith(("HCCL_", "ASCEND_")) and name not in VARIABLES)
    texts = [f"{name}={machine.shown(value)}" for name, value in shown.items()]
    texts += [f"{name} (value not shown)" for name in others]
    yield Finding("variables", "noted", ", ".join(texts) or "none", shown)


def size(count: int) -> str:
    """Bytes as GB, by 1024s as `free -h` counts."""
    return f"{count / 2**30:.1f} GB"
