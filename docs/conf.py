"""Configuration of the site; `build.py` prepares its pages and runs it."""

project, author, copyright = "rim", "The rim authors", "The rim authors, Apache-2.0"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "rim"
html_favicon = "rim.svg"
html_static_path = ["_static"]
html_css_files = ["rim.css"]
html_show_sphinx = False
html_copy_source = False  # the source pages are the source
exclude_patterns = ["_build"]

nb_execution_mode = "off"  # outputs are those that the notebooks were committed with
nb_merge_streams = True
nb_render_markdown_format = "gfm"  # outputs too have tables
myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "fieldlist", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
mathjax_path = "mathjax/tex-chtml.js"  # a local copy: no request leaves the page
suppress_warnings = ["misc.highlighting_failure"]
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {"color-brand-primary": "#0072B2", "color-brand-content": "#0072B2"},
    "dark_css_variables": {"color-brand-primary": "#56B4E9", "color-brand-content": "#56B4E9"},
}
