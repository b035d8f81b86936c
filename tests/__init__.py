import jaxlib

# Programs run here a few times on very little: most of the time would go into optimising them.
CHEAP_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# XLA ends the process over a flag that it doesn't know, and newer ones don't know this one.
if jaxlib.version.__version_info__ < (0, 11):
    CHEAP_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
