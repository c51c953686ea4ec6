"""All steps of Trident in one namespace: read from the module that has one, replaced in every module that uses it."""

from importlib import import_module

MODULES = [
    import_module(f"rim.trident.{name}") for name in ("windows", "splice", "aggregation", "refinement", "trident")
]


class Steps:
    def __getattr__(self, name):
        for module in MODULES:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)

    def __setattr__(self, name, value):
        for module in MODULES:
            if hasattr(module, name):
                setattr(module, name, value)

    def __dir__(self):
        return sorted({name for module in MODULES for name in dir(module)})


T = Steps()
