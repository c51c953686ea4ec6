"Relation-aware intra-modal matching: open-vocabulary segmentation without training."
__version__ = "0.1.0"
__all__ = ["RIM", "ReferenceBank", "Settings", "Vocabulary", "World"]
_HOMES = {"RIM": "segmenter", "ReferenceBank": "photographs", "Settings": "settings", "Vocabulary": "vocabulary", "World": "toybox.world"}


def __getattr__(name):
    "The main classes are imported when first asked for: `import rim` stays light."
    if name not in _HOMES: raise AttributeError(f"module 'rim' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"rim.{_HOMES[name]}"), name)


def __dir__(): return sorted([*globals(), *_HOMES])
