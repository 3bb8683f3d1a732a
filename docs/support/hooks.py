"""What the site needs beyond MkDocs: MathML, notebooks as pages, nothing loaded from afar."""

import html
import re
from pathlib import Path

import nbformat
from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\s*\\[(\[](?P<latex>.*?)\\[)\]]\s*</(?P=tag)>',
    re.DOTALL,
)
# What a browser fetches by itself when it opens a page.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\bsrc=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|<link\b(?=[^>]*\brel=[\"']?(?:stylesheet|preload|preconnect|icon|modulepreload))"
    r"[^>]*?\bhref=[\"']?(?:https?:)?//[^\"'\s>]+"
    r"|@import[^;]*//[^;]+|url\([\"']?(?:https?:)?//[^)]+\)"
)
_MATHML = LatexToMathML(fancy_error=False)


def on_files(files, config):
    """Notebooks and benchmark results, which live outside `docs`, as pages."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, name, content=notebook_page(path)))
    for path in sorted((ROOT / "benchmarks" / "results").iterdir()):
        content = path.read_bytes()
        if path.suffix == ".md":
            text, picture = content.decode("utf-8"), path.with_suffix(".png")
            text = f"# {path.stem}\n\n{text}"
            text += f"\n![Every part of the run]({picture.name})\n" * picture.exists()
            content = text.encode("utf-8")
        files.append(File.generated(config, f"results/{path.name}", content=content))
    return files


def on_page_markdown(markdown, **_):
    """Links that hold in the repository, to where those files are on the site."""
    markdown = re.sub(r"\]\((?:\.\./)+benchmarks/results/", "](results/", markdown)
    markdown = re.sub(r"\]\((?:\.\./)+(notebooks/\w+)\.ipynb\)", r"](\1.md)", markdown)
    return re.sub(r"\]\(\.\./docs/", "](../", markdown)


def on_page_content(content, page, **_):
    """Formulas as MathML."""

    def convert(found: re.Match) -> str:
        latex, display = html.unescape(found["latex"]), found["tag"] == "div"
        try:
            return _MATHML.convert_with_local_state(latex, displaystyle=display)
        except LatexError as error:
            raise PluginError(f"{page.file.src_uri}: {latex.strip()}: {error}") from None

    return _FORMULA.sub(convert, content)


def on_post_build(config):
    """Refuse a site that would load anything from elsewhere."""
    site = Path(config.site_dir)
    for path in (*site.rglob("*.html"), *site.rglob("*.css")):
        if found := loaded_from_afar(path.read_text("utf-8")):
            raise PluginError(f"{path.relative_to(site)} loads from elsewhere: {found[0]}")


def loaded_from_afar(text: str) -> list[str]:
    """What a page or style sheet loads from another host."""
    return _LOADED.findall(text)


def notebook_page(path: Path) -> str:
    """A notebook with its outputs as Markdown; pictures are in the page itself."""
    book = nbformat.read(path, as_version=4)
    return "\n\n".join(part for cell in book.cells for part in _cell(cell))


def _cell(cell) -> list[str]:
    if cell.cell_type == "markdown":
        return [cell.source]
    drawn = any("image/png" in output.get("data", {}) for output in cell.outputs)
    # beside a picture, the value of the last line is some object of Matplotlib
    shown = [one for one in cell.outputs if not (drawn and one.output_type == "execute_result")]
    outputs = [_output(output) for output in shown]
    return [f"```python\n{cell.source}\n```", *filter(None, outputs)]


def _output(output) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        picture = "".join(data["image/png"].split())
        return f"![Output of the cell above](data:image/png;base64,{picture})"
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{text.rstrip()}\n```" if text else ""
