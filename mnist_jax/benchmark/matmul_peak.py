"""How fast matrix products are on this machine."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np


def matmul_timer(
    shapes: Sequence[tuple[int, int, int]], work: float, devices: Sequence
) -> Callable[[], float]:
    """Compiles products [m, k] x [k, n] of float32 arrays that keep devices busy at once.

    Args:
        shapes: (m, k, n) of products to try.
        work: Floating-point operations of a device per shape and call, about.
        devices: Those to keep busy.

    Returns:
        Function that times each shape once and returns the best GFLOP/s of all devices together.
    """
    import jax
    from jax.sharding import Mesh
    from jax.sharding import PartitionSpec as P

    mesh = Mesh(np.array(devices), ("device",))
    rng = np.random.default_rng(0)
    programs = []
    for m, k, n in shapes:
        repeats = math.ceil(work / (4 * m * k * n))
        there, back = (
            rng.normal(0, a**-0.5, (a, b)).astype(np.float32) for a, b in ((k, n), (n, k))
        )
        start = np.ones((mesh.size * m, k), np.float32)

        def multiply(x, there, back, repeats=repeats):
            step = lambda x, _: ((x @ there) @ back, None)  # noqa: E731
            return jax.lax.scan(step, x, length=repeats)[0]

        spread_out = jax.shard_map(
            multiply,
            mesh=mesh,
            in_specs=(P("device"), P(), P()),
            out_specs=P("device"),
            check_vma=False,
        )
        arguments = jax.device_put(
            (start, there, back),
            tuple(jax.sharding.NamedSharding(mesh, p) for p in (P("device"), P(), P())),
        )
        program = jax.jit(spread_out).lower(*arguments).compile()
        jax.block_until_ready(program(*arguments))
        programs.append((program, arguments, 4 * m * k * n * repeats * mesh.size))

    def best() -> float:
        speeds = []
        for program, arguments, flop in programs:
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            speeds.append(flop / (time.perf_counter() - start) / 1e9)
        return max(speeds)

    return best
