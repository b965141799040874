"""Whether the device computes what the CPU computes: integers, the noise of dropout, primitives, the network."""

import sys
from pathlib import Path

import mindspore
import numpy as np
from mindspore import Tensor, nn

from mindcv_lite import stateless_random as noise
from mindcv_lite.device.context import start_device
from mindcv_lite.device.ranks import World
from mindcv_lite.doctor.examination import Answer
from mindcv_lite.doctor.findings import Failed, NotRun
from mindcv_lite.doctor.primitives import GROUPS, read_list
from mindcv_lite.doctor.programs import outcome
from mindcv_lite.doctor.recipes import recipe_of
from mindcv_lite.errors import first_line
from mindcv_lite.evaluation.score import Inference
from mindcv_lite.models.build import build_network

LARGEST = 2**31 - 1


class Integers(nn.Cell):
    """int32 (n,) -> products, sums, bits and quotients of them."""

    # pyrefly: ignore [bad-override]
    def construct(self, x: Tensor) -> tuple[Tensor, ...]:
        return x * 3, x + 1, x & 0xFFFF, x ^ (x * 5), x // 65536, x % 7


def integers() -> Answer:
    """What fits in int32 must be exact. What does not may wrap around or not: nothing here depends on it."""
    x = np.array([0, 1, -1, 7, 46341, -46341, 65535, -65536, 10**8, -(10**8)], np.int32)
    expected = (x * 3, x + 1, x & 0xFFFF, x ^ (x * 5), x // 65536, x % 7)
    names = ("x * 3", "x + 1", "x & 65535", "x ^ 5 x", "x // 65536", "x % 7")
    for name, got, right in zip(names, Integers()(Tensor(x)), expected, strict=True):
        _require_equal(f"int32 {name}", got.asnumpy(), right)
    tripled, plus_one, *_ = (each.asnumpy() for each in Integers()(Tensor(np.array([LARGEST], np.int32))))
    wraps = (tripled[0], plus_one[0]) == (LARGEST - 2, -(2**31))
    return (
        f"int32 as NumPy's; (2**31 - 1) * 3 is {tripled[0]} and 2**31 - 1 + 1 is {plus_one[0]} here: int32 "
        f"{'wraps around' if wraps else 'does not wrap around, and nothing here needs it to'}",
        {"times_3": int(tripled[0]), "plus_1": int(plus_one[0])},
    )


class Bits(nn.Cell):
    def construct(self, seed: Tensor) -> Tensor:
        return noise.bits((4096,), seed)


def noise_bits() -> Answer:
    """The hash that dropout and random erasing draw from."""
    for seed in (7, LARGEST, -5):
        seed = np.array(seed, np.int32)
        _require_equal(f"noise of seed {seed}", Bits()(Tensor(seed)).asnumpy(), noise.expected_bits((4096,), seed))
    return "4096 numbers of 3 seeds as NumPy's", {}


def primitives() -> Answer:
    """What the graphs of training and evaluation are made of, a group in each small graph."""
    faults = [f"{name}: {fault}" for name in GROUPS if (fault := fault_of(name))]
    if faults:
        raise Failed(f"{'; '.join(faults)}: this device does not compute what NumPy does")
    count = sum(row.group in GROUPS for row in read_list())  # not those of the ranks, which `exact_sums` checks
    return f"{count} primitives in {len(GROUPS)} small graphs as NumPy's", {}


def fault_of(group: str) -> str | None:
    """What is wrong with a group; a device that lacks one of its primitives raises an error."""
    try:
        return GROUPS[group]().fault()
    except (RuntimeError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {first_line(error)}"


def _require_equal(what: str, got: np.ndarray, expected: np.ndarray) -> None:
    differing = np.flatnonzero(got != expected)
    if differing.size:
        first = differing[0]
        raise Failed(
            f"{what}: {differing.size} of {got.size} numbers differ from NumPy's, the first at {first}: {got[first]}, "
            f"expected {expected[first]}; training on this device would not be the published one"
        )


# ------------------------------------------------------------------------------------------------------- the network

# Largest difference of a logit, as a share of the largest logit. 8e-7 was measured between the compiled CPU kernels and
# MindSpore's own on a CPU. An NPU computes the convolutions of O0 in HF32, with 10 bits of fraction; none was tried.
CPU_BOUND, BOUNDS = 1e-4, {"O0": 1e-2, "O3": 5e-2}

REFERENCE_LIMIT = 600  # seconds; a check has longer, and compiles the network for the device in what is left


def logits(world: World, amp_level: str, folder: Path) -> Answer:
    """Logits of drawn weights for drawn images, on this device and by MindSpore's own operators on the CPU."""
    if amp_level != "O0" and world.settings.target == "CPU":
        raise NotRun("no NPU: a CPU computes in float32")
    reference = folder / f"logits_{world.rank}.npy"
    if not reference.exists():
        program = f"from mindcv_lite.doctor import arithmetic; arithmetic.write_reference({str(reference)!r})"
        status, output = outcome([sys.executable, "-c", program], folder, REFERENCE_LIMIT)
        if status:
            raise Failed(f"the CPU's logits could not be computed: {' '.join(output.split())[-300:]}")
    expected = np.load(reference)
    got = logits_of(build_network(recipe_of().model, amp_level, world.settings.target, world.cpu_kernels))
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    bound = CPU_BOUND if world.settings.target == "CPU" else BOUNDS[amp_level]
    figures = {"difference": difference, "bound": bound}
    text = f"largest difference {difference:.1e} of the largest logit, at most {bound:.0e} is right"
    if not difference <= bound:  # nor if it is no number
        raise Failed(f"{text}: this device does not compute the network that the CPU does")
    return text, figures


def write_reference(path: str) -> None:
    start_device(recipe_of(device_target="CPU", cpu_kernels="off"))
    np.save(path, logits_of(build_network(recipe_of().model, "O0")))


def logits_of(network: nn.Cell) -> np.ndarray:
    random = np.random.default_rng(0)
    for name, parameter in sorted(network.parameters_dict().items()):
        parameter.set_data(Tensor(_drawn_weight(name, parameter.shape, random), mindspore.float32))
    images = random.integers(0, 256, (4, 224, 224, 3), np.uint8)
    inference = Inference(network, recipe_of().augmentation)
    inference.set_train(False)
    return inference(Tensor(images)).asnumpy()


def _drawn_weight(name: str, shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """Weights of such a size that the numbers in the network neither grow nor fade."""
    noise = random.standard_normal(shape)
    if len(shape) > 1:
        return noise * np.sqrt(2 / np.prod(shape[1:]))
    return 1 + 0.1 * noise.clip(-3, 3) if name.endswith(("gamma", "moving_variance")) else 0.1 * noise
