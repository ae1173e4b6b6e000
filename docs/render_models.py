"""Write the tables of docs/models.md from what the package knows about its models: ``python docs/render_models.py``."""

from __future__ import annotations

from pathlib import Path

from clip4clip.config import MODELS
from clip4clip.model_facts import FACTS, OPEN_CLIP, OPEN_CLIP_IMAGENET
from clip4clip.weights.hub import HubReference

PAGE = Path(__file__).with_name("models.md")
QUALITY = ("MSR-VTT R@1", "COCO R@1", "COCO R@5", "Flickr30k R@1", "ImageNet")


def quality_table() -> list[str]:
    """Return the lines of the table of names, sizes and published figures."""
    rows = [("name", "network", "parameters", "vector", "download", "licence", *QUALITY)]
    for name, facts in FACTS.items():
        config = MODELS[name].config
        figures = (facts.msrvtt_r1, facts.coco_r1, facts.coco_r5, facts.flickr_r1, facts.imagenet)
        rows.append(
            (
                f"`{name}`",
                facts.network,
                f"{facts.parameters:g} M",
                str(config.embed_dim if config else ""),
                f"{facts.megabytes:,} MB",
                facts.licence or "not stated",
                *("" if figure is None else f"{figure:.1f}" for figure in figures),
            )
        )
    return _lines(rows, "| --- " * 2 + "| ---: " * 3 + "| --- " + "| ---: " * 5 + "|")


def source_table() -> list[str]:
    """Return the lines of the table of where weights and figures come from."""
    rows = [("name", "default weights", "trained on", "published in", "remarks")]
    for name, facts in FACTS.items():
        sources = ", ".join(f"[{_title(url)}]({url})" for url in facts.sources)
        remarks = " ".join(part for part in (facts.note, facts.unverified) if part)
        remarks = remarks.replace("(docs/demo_model.md)", "([more](demo_model.md))")
        rows.append((f"`{name}`", _weights(name), facts.training, sources, remarks))
    return _lines(rows, "| --- " * 5 + "|")


def _weights(name: str) -> str:
    if not MODELS[name].hub:
        return "comes with the package"
    hub = HubReference.parse(MODELS[name].hub)
    text = f"[{hub.repo}](https://huggingface.co/{hub.repo}) at `{(hub.revision or '')[:12]}`"
    return f"{text}, `{hub.file}`" if hub.file else text


def _title(url: str) -> str:
    if url in (OPEN_CLIP, OPEN_CLIP_IMAGENET):
        return "open_clip: retrieval" if url == OPEN_CLIP else "ImageNet"
    if "arxiv.org" in url:
        return f"arXiv {url.rpartition('/')[2]}"
    return "its page" if "huggingface" in url else "its repository"


def _lines(rows: list[tuple[str, ...]], rule: str) -> list[str]:
    header, *others = ("|" + "".join(f" {cell} |" if cell else " |" for cell in row) for row in rows)
    return [header, rule, *others]


def render(page: str) -> str:
    """Return the text of the page with both tables replaced."""
    for name, lines in (("quality", quality_table()), ("sources", source_table())):
        begin, end = f"<!-- {name}: docs/render_models.py writes this -->", f"<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = before + begin + "\n\n" + "\n".join(lines) + "\n\n" + end + rest.split(end)[1]
    return page


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text("utf-8")), "utf-8")
