"""Signatures as the site shows them, and pages of the source that they link to."""

import ast, inspect, re
from pathlib import Path
from rim.base.tables import markdown_table

ROOT = Path(__file__).resolve().parent.parent
EMPTY = inspect.Parameter.empty


def notebook_of(module):
    "The notebook that a module of ours is exported from, as a page; None for other modules."
    path = ROOT / f"{module.replace('.', '/')}.py"
    named = re.search(r"File to edit: (\S+\.ipynb)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return f"/{(path.parent / named[1]).resolve().relative_to(ROOT).as_posix()}" if named else None


def code(text):
    "Text in the font of code, inside a table."
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def plain(text):
    "Text of a comment, inside a table: its brackets and stars are no Markdown."
    return re.sub(r"([\\\[\]*_<>$`])", r"\\\1", " ".join(text.split()))


def type_name(kind):
    "A type as code, linked to the notebook that explains it if it is ours."
    if kind is EMPTY:
        return ""
    if not isinstance(kind, type) or getattr(kind, "__args__", None):
        return code(kind if isinstance(kind, str) else re.sub(r"\b(?:\w+\.)+(?=\w)", "", str(kind)))
    page = notebook_of(kind.__module__)
    return f"[{code(kind.__name__)}]({page}#{kind.__name__.lower()})" if page else code(kind.__name__)


def value(default):
    return "" if default is EMPTY else code(getattr(default, "__name__", None) or repr(default))


def parameter_table(documented):
    "Parameters and result -> a table without the columns that nobody filled."
    rows = [("parameter", "type", "default", "")]
    for name, about in documented.items():
        kind, default, said = about.get("anno", EMPTY), about.get("default", EMPTY), about.get("docment") or ""
        if name == "return" and (said or kind is not EMPTY):
            rows.append(("**returns**", type_name(kind), "", plain(said)))
        elif name != "return":
            rows.append((code(name), type_name(kind), value(default), plain(said)))
    kept = [i for i in range(4) if i == 0 or any(row[i] for row in rows[1:])]
    head, *lines = [[row[i] for i in kept] for row in rows]
    return markdown_table(head, lines) if lines and len(kept) > 1 else ""


def call(name, signature, width=96):
    "How a thing is called, on one line where it fits."
    words = [str(p.replace(annotation=EMPTY)) for p in signature.parameters.values() if p.name != "self"]
    line = f"{name}({', '.join(words)})"
    return line if len(line) <= width else f"{name}(\n    " + ",\n    ".join(words) + ")"


def label(module, name):
    "The place of a definition on its source page; Sphinx doesn't tell Parser from parser."
    return f"{module}.{name}" + (".class" if name[0].isupper() else "")


def definitions(path):
    "Top-level functions and classes of a module's file -> name: first line, decorators included."
    nodes = [
        n for n in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))
    ]
    return {n.name: min([n.lineno, *(d.lineno for d in n.decorator_list)]) for n in nodes}


def renderer():
    "The class that draws signatures for nbdev's show_doc."
    from nbdev import showdoc

    class Signature(showdoc.BasicMarkdownRenderer):
        def _repr_markdown_(self):
            documented = getattr(self.dm, "dm", None)
            if documented is None or self.sig is None:
                return super()._repr_markdown_()
            parameters, first = self.sig.parameters, self.nm.split(".")[0]
            owner = getattr(parameters.get("self"), "annotation", EMPTY)
            name = (
                self.nm if owner is EMPTY else f"{getattr(owner, '__name__', owner)}.{self.nm}"
            )  # a method that was put into its class afterwards
            path = re.search(r"rim/[\w/]+\.py", showdoc.NbdevLookup().code(self.fn) or "")
            known = path and first in definitions(ROOT / path[0])
            source = f"[source](#{label(path[0][:-3].replace('/', '.'), first)})" if known else ""
            stars = {p.name: str(p).split(":")[0].split("=")[0].strip() for p in parameters.values()}
            told = {
                stars.get(k, k): v
                for k, v in documented.items()
                if k != "self" and not (k == "return" and inspect.isclass(self.sym))
            }
            parts = [
                f"{'#' * self.title_level} {name}",
                f"```python\n{call(name, self.sig)}\n```",
                f"{self.docs or ''} {source}".strip(),
                parameter_table(told),
            ]
            return "\n\n".join(part for part in parts if part)

    return Signature


def source_pages(pages):
    "A page per module with its numbered source, every definition a place to link to -> their names."
    names = []
    for path in sorted((ROOT / "rim").rglob("*.py")):
        module = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        if path.name.startswith("_"):
            continue
        lines = path.read_text(encoding="utf-8").rstrip().split("\n")
        starts = {line: name for name, line in definitions(path).items()}
        cuts = [1, *(s for s in sorted(starts) if s > 1), len(lines) + 1]
        blocks = [
            (f"({label(module, starts[a])})=\n" if a in starts else "")
            + f"`````{{code-block}} python\n:lineno-start: {a}\n\n"
            + "\n".join(lines[a - 1 : b - 1])
            + "\n`````"
            for a, b in zip(cuts, cuts[1:])
        ]
        explained = notebook_of(module)
        head = f"---\nnosearch: true\n---\n\n# {module}\n\n" + (
            f"Explained, with examples, in [its notebook]({explained}), from which it is exported." if explained else ""
        )
        target = pages / "source" / path.relative_to(ROOT / "rim").with_suffix(".md")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("\n\n".join([head, *blocks]) + "\n", encoding="utf-8")
        names.append(target.relative_to(pages).with_suffix("").as_posix())
    return names
