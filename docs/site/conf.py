"""Sphinx's configuration for `make site`. docs/site/build.py prepares the sources."""

from docutils import nodes

project = "Flaskhost"
copyright = "The Flaskhost authors"
html_title = "Flaskhost"
html_theme = "furo"
html_copy_source = False

extensions = ["myst_parser", "sphinx_antsibull_ext"]
# headings get the same anchors as on GitHub
myst_heading_anchors = 4
# a code block without a language is a drawing or the output of a program
highlight_language = "none"

# The labels of Ansible's own documentation that the generated pages refer to. intersphinx would need the network for each build.
ANSIBLE = "https://docs.ansible.com/ansible/latest"
LABELS = {
    "action_plugins": "plugins/action",
    "ansible_configuration_settings": "reference_appendices/config",
    "common_return_values": "reference_appendices/common_return_values",
}


def setup(app):
    app.connect("missing-reference", link_to_ansible)


def link_to_ansible(_app, _environment, node, content):
    label = node["reftarget"]
    path = label.replace(".", "/").removeprefix("ansible_") if label.startswith("ansible_collections.ansible.") else LABELS.get(label)
    return path and nodes.reference("", "", content, refuri=f"{ANSIBLE}/{path}.html")
