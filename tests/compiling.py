"""How XLA makes loops on a CPU: by its emitters, or the older way, which compiles faster."""

EMITTERS = "xla_cpu_use_fusion_emitters"


def compile_with(emitters):
    """Returns `jax.stages.Lowered.compile` with the emitters or without."""
    import jax

    compile_lowered = jax.stages.Lowered.compile

    def compile_one(lowered, compiler_options=None):
        return compile_lowered(lowered, {EMITTERS: emitters} | (compiler_options or {}))

    return compile_one
