"""Read the server blocks of nginx's configuration files, and find those that would get requests for another site."""

import glob
import os
import re

from ansible_collections.flaskhost.flaskhost.plugins.module_utils.files import read

TOKEN = re.compile(r"""\s*(?:(\#[^\n]*)|("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|(?:\\.|\$\{\w*\}|[^\s{};\\])+))""", re.DOTALL)
MARK = "# Managed by Flaskhost"


def directives(text):
    """Yield (depth of blocks, words) for each directive. The last word of a block's opening is {, and } closes a block."""
    depth, words = 0, []
    for comment, token in TOKEN.findall(text):
        if comment:
            continue
        if token == "}":
            depth -= 1
            yield depth, ["}"]
            words = []
        elif token == "{":
            yield depth, [*words, "{"]
            depth, words = depth + 1, []
        elif token == ";":
            yield depth, words
            words = []
        else:
            words.append(token.strip("\"'"))


def servers(text):
    """Return the server blocks of a file that is included in the block http, each with its `names` and `listen` directives."""
    found, current = [], None
    for depth, words in directives(text):
        if depth == 0 and words == ["server", "{"]:
            current = {"names": [], "listen": []}
            found.append(current)
        elif depth == 0 and words == ["}"]:
            current = None
        elif depth == 1 and current and words and words[0] in ("server_name", "listen"):
            if words[0] == "listen":
                current["listen"].append(words[1:])
            else:
                current["names"] += words[1:]
    return found


def address_and_port(listen):
    """Return the address (empty for all) and port of a listen directive; the port is 0 for a Unix socket."""
    value = listen[0] if listen else "80"
    if value.startswith("unix:"):
        return value, 0
    if value.isdigit():
        return "", int(value)
    address, port = re.match(r"(\[[^\]]*\]|[^:]*)(?::(\d+))?", value).groups()
    return "" if address in ("*", "0.0.0.0", "[::]") else address, int(port or 80)


def conflicts(site, names, directory="/etc/nginx", ports=(80, 443)):
    """Return why other sites would get requests for these names. `site` is the name of this site's file without .conf."""
    names, found = {name.lower() for name in names}, []
    own = {f"{site}.conf", "default"}
    paths = [path for pattern in ("sites-enabled/*", "conf.d/*.conf") for path in sorted(glob.glob(os.path.join(directory, pattern)))]
    for path in paths:
        if os.path.basename(path) in own and os.path.basename(os.path.dirname(path)) == "sites-enabled":
            continue
        text = read(path)
        of = (
            f"the site of the app '{os.path.basename(path).removesuffix('.conf')}' ({path})"
            if text.startswith(MARK)
            else f"the site {path}"
        )
        for server in servers(text):
            listen = [(*address_and_port(words), words) for words in server["listen"] or [["80"]]]
            listen = [entry for entry in listen if entry[1] in ports]
            same = sorted(names & {name.lower().removeprefix(".") for name in server["names"]})
            if same and listen:
                found.append(
                    f"app_domains: {of} has the same server_name {', '.join(same)}, so nginx would send the requests to one of the two. "
                    "Remove the name there, remove the file, or choose another domain."
                )
            for address, port, words in listen:
                if address:
                    found.append(
                        f"nginx: {of} listens on {address}:{port}, so no other site gets the requests to this address. "
                        f"Change its directive to `listen {port}`, or remove the file."
                    )
                elif {"default_server", "default"} & {*words[1:]}:
                    found.append(
                        f"nginx: {of} is a default server of port {port}, but the main configuration has one already, and there can be only one. "
                        "Remove `default_server` there."
                    )
    return list(dict.fromkeys(found))
