"""What a run sets on its device, as data: decided here by arithmetic alone, so that tests can read it."""

from dataclasses import dataclass, replace

from mindcv_lite.recipe.keys import Recipe


@dataclass(frozen=True)
class Settings:
    """What a run sets on its device. `notes`: a sentence for each option of the recipe that the device cannot meet."""

    target: str
    jit_level: str
    sink: bool
    amp_level: str
    val_amp_level: str
    teacher_amp_level: str
    workers: int
    prefetch: int  # rows, or batches, that wait between two stages of the training input
    cpu_kernels: bool
    parallel: dict[str, object]
    notes: tuple[str, ...] = ()


def evaluation_level(recipe: Recipe, settings: Settings, images: int) -> tuple[str, str]:
    """The graph level at which a rank evaluates `images`, and why if it is not that of the recipe.

    A recipe's O2 is meant for training. On the command line it is meant for this program, and taken.
    """
    level = settings.jit_level
    is_wanted_here = recipe.origin.get("jit_level") in ("command line", "keyword arguments")
    if level != "O2" or is_wanted_here or images >= WORTH_A_WHOLE_GRAPH:
        return level, ""
    return "O1", (
        f"jit_level: O1, for {images} images a device: compiling the whole graph (O2) would take longer than they do "
        "(MindCV measured 184 s or more for a training graph; nothing was measured here); --jit_level O2 compiles it"
    )


# What MindCV's training computes on an NPU (75 images in 54.21 ms) while its small graph compiles (184 s): for fewer,
# O2 could not pay even if it took no time at all. Both figures are MindCV's; no level was measured on an NPU here.
WORTH_A_WHOLE_GRAPH = 250_000


def settings_for(
    recipe: Recipe, target: str, size: int = 1, local_size: int = 1, processors: int = 1, bound: int | None = None
) -> Settings:
    """What to set for `recipe` on `target`, as data.

    `size`, `local_size`: ranks in all and on this machine; `processors`, `bound`: those of the machine and those that
    this process may use.
    """
    system, precision = recipe.system, recipe.precision
    share = max(1, min(processors // local_size, bound or processors))
    workers = share if system.num_parallel_workers == "auto" else system.num_parallel_workers
    notes = []
    if workers > processors:  # MindSpore refuses more
        notes.append(f"num_parallel_workers is {workers}, this machine has {processors} processors: {processors} used")
        workers = processors
    settings = Settings(
        target=target,
        jit_level=system.jit_level,
        sink=system.dataset_sink_mode,
        amp_level=precision.amp_level,
        val_amp_level=precision.val_amp_level,
        teacher_amp_level=precision.teacher_amp_level,
        workers=workers,
        # MindSpore's 16 batches of 32 images take 77 MB in each queue; a CPU's step is too slow to empty 4.
        prefetch=4 if target == "CPU" else 16,
        cpu_kernels=target == "CPU" and system.cpu_kernels == "auto",
        parallel={
            "parallel_mode": "data_parallel",
            "gradients_mean": True,
            "parameter_broadcast": False,  # a resumed rank has statistics of its own
            "device_num": size,
        }
        if size > 1
        else {},
    )
    if target == "CPU":
        for name in ("amp_level", "val_amp_level", "teacher_amp_level"):
            if (level := getattr(precision, name)) != "O0":
                notes.append(f"{name} {level} needs an accelerator: computing in float32 on the CPU")
        if system.dataset_sink_mode:
            notes.append("dataset_sink_mode needs an accelerator: feeding the CPU batch by batch")
        settings = replace(settings, sink=False, amp_level="O0", val_amp_level="O0", teacher_amp_level="O0")
    if target != "Ascend" and system.jit_level == "O2":
        if "jit_level" in recipe.origin:
            notes.append(f"jit_level O2 is Ascend's graph engine: O1 on the {target}")
        settings = replace(settings, jit_level="O1")
    return replace(settings, notes=tuple(notes))
