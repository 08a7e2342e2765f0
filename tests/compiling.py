"""How XLA makes loops on a CPU: by its emitters, or the older way, which compiles faster."""

from jaxlib.version import __version_info__

_EMITTERS = "xla_cpu_use_fusion_emitters"
_HAS_OLDER_WAY = __version_info__[:3] < (0, 11, 1)  # later versions know no such flag

FLAGS = f" --{_EMITTERS}=false" * _HAS_OLDER_WAY
"""What has XLA compile fast, for XLA_FLAGS."""


def compile_with(emitters):
    """Returns `jax.stages.Lowered.compile` with the emitters or without."""
    import jax

    compile_lowered = jax.stages.Lowered.compile

    def compile_one(lowered, compiler_options=None):
        options = {_EMITTERS: emitters} if _HAS_OLDER_WAY else {}
        return compile_lowered(lowered, options | (compiler_options or {}))

    return compile_one
