"""What the site's hook does to pages, and what it refuses."""

import importlib.util
from types import SimpleNamespace

import pytest
from pages import ROOT

pytest.importorskip("mkdocs", reason="the site is built by the packages of the extra `docs`")
from mkdocs.exceptions import PluginError

spec = importlib.util.spec_from_file_location("hook", ROOT / "docs/generate/hook.py")
hook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hook)

CONFIG = SimpleNamespace(docs_dir=str(ROOT / "docs"))


def page(path):
    return SimpleNamespace(file=SimpleNamespace(src_path=path))


@pytest.mark.parametrize(
    "fetched",
    [
        '<script src="https://cdn.example/mermaid.js"></script>',
        '<img alt="badge" src="//img.example/x.svg">',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="https://fonts.example" rel="preconnect">',
    ],
)
def test_page_that_fetches_from_the_internet_is_refused(fetched):
    with pytest.raises(PluginError, match=r"a\.md: expected nothing from the internet, got"):
        hook.on_post_page(f"<p>{fetched}</p>", page("a.md"), CONFIG)
    here = '<a href="https://example.org">a link</a><script src="assets/a.js"></script>'
    assert hook.on_post_page(here, page("a.md"), CONFIG) == here


def test_links_out_of_the_documents_are_their_text_and_must_lead_to_files():
    shown = "[`backbones.py`](../../bacl/backbones.py) and [recipes](../guides/recipes.md)"
    kept = hook.on_page_markdown(shown, page("extending/a.md"), CONFIG, None)
    assert kept == "`backbones.py` and [recipes](../guides/recipes.md)"
    with pytest.raises(PluginError, match="leads to no file"):
        hook.on_page_markdown("[a](../../bacl/absent.py)", page("extending/a.md"), CONFIG, None)


def test_formulas_are_mathml_and_diagrams_elements():
    html = r'<span class="arithmatex">\(l_i &lt; 1\)</span><img alt="A key" src="key.svg" />'
    shown = hook.on_page_content(html, page("concepts/store.md"), CONFIG, None)
    assert "<math" in shown and "arithmatex" not in shown
    assert '<svg role="img" aria-label="A key" class="diagram"' in shown


@pytest.mark.parametrize("name", sorted(set(hook.PAGES.values())))
def test_generated_page_has_content(name):
    if not (hook.HERE / f"{name}.py").exists():
        pytest.skip(f"docs/generate/{name}.py is not written yet")
    text = hook._module(name).page()
    assert text.startswith("# ") and len(text) > 1000


def test_cards_have_every_method_and_correction():
    from bacl.method_settings.corrections import CORRECTIONS
    from bacl.method_settings.registry import METHODS

    cards = hook._module("methods").page()
    for name, method in {**METHODS, **CORRECTIONS}.items():
        assert f"### {name} {{ #{name} }}" in cards
        for field in set(method.model_fields) - {"method", "hallucination"}:
            assert f"| `{field}` |" in cards or f"| `{field}." in cards, (name, field)
