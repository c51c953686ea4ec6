"""Relation-aware intra-modal matching: open-vocabulary segmentation without training."""

import sys
from functools import partial
from importlib import import_module, util
from importlib.machinery import ModuleSpec

__version__ = "0.1.0"
__all__ = ["Matcher", "RIM", "ReferenceBank", "Settings", "Trident", "Vocabulary", "World", "segment"]
_HOMES = {
    "Matcher": "method.matcher",
    "RIM": "method.segmenter",
    "ReferenceBank": "method.bank",
    "Settings": "base.settings",
    "Trident": "trident.trident",
    "Vocabulary": "method.vocabulary",
    "World": "toybox.world",
    "segment": "method.matcher",
}
_ROOMS = {
    "base": "settings store images ledger engine",
    "method": "vocabulary synthesis proposals features references photographs bank ranking regions overlay "
    "segmentation words shipped segmenter matcher",
    "measure": "metrics datasets prepare results report evaluation rivals examination sweeps agreement figures",
    "apps": "batch widgets demo doctor cli",
}
_FLAT = {f"rim.{module}": f"rim.{room}.{module}" for room, modules in _ROOMS.items() for module in modules.split()}

_DIVIDED = {  # modules that became several: where their other names are
    "rim.apps.cli": "apps.arguments apps.cli_segment apps.cli_evaluate apps.cli_files apps.cli_data",
    "rim.base.settings": "base.values",
    "rim.base.store": "base.files",
    "rim.base.engine": "base.workers base.ray_crew",
    "rim.method.features": "method.pooling method.crops",
    "rim.method.references": "method.tools",
    "rim.method.segmentation": "method.explanation",
    "rim.measure.datasets": "measure.folders measure.sources measure.published",
    "rim.measure.figures": "measure.style measure.grids",
}


def __getattr__(name):
    "The main classes are imported at first access: `import rim` stays light."
    if name not in _HOMES:
        raise AttributeError(f"module 'rim' has no attribute {name!r}")
    return getattr(import_module(f"rim.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])


class _FlatPaths:
    "Paths without their room, as of the first release: `rim.settings` is `rim.base.settings`."

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name in _FLAT:
            return ModuleSpec(_FLAT[name], cls, origin=util.find_spec(_FLAT[name]).origin)

    @staticmethod
    def create_module(spec):
        module = import_module(spec.name)
        if parts := _DIVIDED.get(spec.name):
            module.__dict__.setdefault("__getattr__", partial(_look_up, [f"rim.{part}" for part in parts.split()]))
        return module

    @staticmethod
    def exec_module(module):
        "The module has run already."

    @staticmethod
    def get_code(name):
        home = _FLAT.get(name, name)
        return util.find_spec(home).loader.get_code(home)


def _look_up(homes, name):
    "The first module's attribute of that name."
    for home in map(import_module, homes):
        if name in vars(home):
            return vars(home)[name]
    raise AttributeError(f"neither this module nor {', '.join(homes)} has an attribute {name!r}")


sys.meta_path.append(_FlatPaths)
