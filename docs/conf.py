"""The site: the pages as they are in the repository, with those of reference that `reports.reference` makes.

.ci/site OUT
"""

project = "tfm"
html_title = "tfm"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md"]
# Made on the spot; without them the site isn't whole.
MADE = ("docs/reference/commands", "docs/reference/server", "docs/reference/python")
NAVIGATION = {
    "Getting started": (
        "docs/COMING_FROM", "docs/MODELS", "docs/COMMANDS", "docs/GUIDE", "docs/PYTHON", "docs/SERVING",
    ),
    "Tutorials": (
        "docs/tutorials/find_a_bug", "docs/tutorials/quantize", "docs/tutorials/serve",
        "docs/tutorials/open_webui",
        "docs/tutorials/read_the_specification", "docs/tutorials/add_a_family",
        "docs/tutorials/c_and_browser", "docs/tutorials/transcribe",
    ),
    "Concepts": ("ARCHITECTURE", "docs/QUANTIZATION", "docs/RUNTIMES", "SECURITY"),
    "Reference": (*MADE, "docs/FAMILIES", "CHANGELOG"),
    "Comparison": ("docs/COMPARISON", "docs/BENCHMARKS"),
    "For contributors": ("CONTRIBUTING",),
}  # fmt: skip

html_theme = "furo"
html_theme_options = {"source_view_link": "", "source_edit_link": ""}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_use_index = False
highlight_language = "none"
myst_heading_anchors = 4  # the forge's
smartquotes = False  # "--" in a sentence is an option's


def with_navigation(_app, name, source):
    """README is the first page, and has the tree of all others behind it."""
    if name == root_doc:
        for caption, pages in NAVIGATION.items():
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(pages) + "\n```\n"


def setup(app):
    app.connect("source-read", with_navigation)
