"""A room's modules as one namespace: a name is read from the module that has it, and replaced in every module that uses
it."""

from importlib import import_module


class Room:
    def __init__(self, path, *names):
        self.__dict__["modules"] = [import_module(f"{path}.{name}") for name in names]
        self.__dict__["originals"] = {}

    def __getattr__(self, name):
        for module in self.modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(name)

    def __setattr__(self, name, value):
        for module in self.modules:
            if hasattr(module, name):
                self.originals.setdefault((module, name), getattr(module, name))
                setattr(module, name, value)

    def __delattr__(self, name):
        "What monkeypatch does at its end with a name that it did not find in `__dict__`: the original returns."
        for module in self.modules:
            if (module, name) in self.originals:
                setattr(module, name, self.originals.pop((module, name)))

    def __dir__(self):
        return sorted({name for module in self.modules for name in dir(module)})


trident = Room("rim.trident", "windows", "splice", "aggregation", "refinement", "trident")
reproduce = Room("rim.reproduce", "registry", "jobs", "running", "provenance", "index", "command")
