"""How fast matrix products are on this machine: what a training step could reach at best."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P


def matmul_timer(
    shapes: Sequence[tuple[int, int, int]],
    work: float,
    devices: Sequence,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Callable[[], float]:
    """Compiles chains of products [m, k] x [k, n] of float32 that keep all devices busy at once.

    Args:
        shapes: (m, k, n) of products to try. Each is followed by one back, [m, n] x [n, k].
        work: Floating-point operations of a device per shape and call, about.
        devices: Those to keep busy.
        options: XLA's.

    Returns:
        Function that times each shape once and returns the best GFLOP/s of all devices together.
    """
    mesh = Mesh(np.array(devices), ("device",))
    specs = (P("device"), P(), P())
    rng = np.random.default_rng(0)
    programs = []
    for m, k, n in shapes:
        repeats = math.ceil(work / (4 * m * k * n))
        first, second = (
            rng.normal(0, a**-0.5, (a, b)).astype(np.float32) for a, b in ((k, n), (n, k))
        )

        def multiply(x, first, second, repeats=repeats):
            step = lambda x, _: ((x @ first) @ second, None)  # noqa: E731
            return jax.lax.scan(step, x, length=repeats)[0]

        on_all_devices = jax.shard_map(
            multiply, mesh=mesh, in_specs=specs, out_specs=P("device"), check_vma=False
        )
        arguments = jax.device_put(
            (np.ones((mesh.size * m, k), np.float32), first, second),
            tuple(NamedSharding(mesh, spec) for spec in specs),
        )
        program = jax.jit(on_all_devices).lower(*arguments).compile(compiler_options=dict(options))
        jax.block_until_ready(program(*arguments))
        programs.append((program, arguments, 4 * m * k * n * repeats * mesh.size))

    def time_products() -> float:
        speeds = []
        for program, arguments, flop in programs:
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            speeds.append(flop / (time.perf_counter() - start) / 1e9)
        return max(speeds)

    return time_products
