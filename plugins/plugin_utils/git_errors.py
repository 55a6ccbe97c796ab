"""Explain why git failed: the line in which git, ssh or the server gives the reason, and the fix."""

import re

URL_FIX = "Check the URL, and that this controller has access to it (SSH key, token)."
WORKING_COPY_FIX = "Make sure that `git status` succeeds in this directory for the user who deploys."
PRIVATE = (
    "Check the URL. If the repository is private, write a token that may read it and an @ before the server's name in an https:// URL, "
    "or use an SSH URL with a key that is one of the repository's deploy keys."
)
NETWORK = "Check the server's name and port in the URL, and the network and proxy settings of this controller. Then run Flaskhost again."
# The first pattern that matches any line of the output decides. git's own last line, such as "Could not read from remote repository", often
# hides the reason.
REASONS = (
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        (
            "The server's SSH key is not the one in known_hosts. Ask the server's administrator whether the key was replaced. If it was, remove "
            "the old key with `ssh-keygen -R HOST`, and connect once with `ssh HOST` to accept the new one."
        ),
    ),
    (
        "Host key verification failed|No .* host key is known",
        (
            "This controller does not know the server's SSH key. Connect once with `ssh -T USER@HOST`, compare the fingerprint with the one that "
            "the server publishes, and accept it. In CI, write the key to ~/.ssh/known_hosts."
        ),
    ),
    (
        r"Permission denied \(|Too many authentication failures",
        (
            "The server accepts none of this controller's SSH keys. Add the public key to the repository's deploy keys, and load a key with a "
            "passphrase into the agent (ssh-add). `ssh -T USER@HOST` shows which user the server recognizes."
        ),
    ),
    (
        "[Cc]onnection .*timed out|Operation timed out|Operation too slow|Timeout, server .* not responding",
        f"The server does not answer. {NETWORK}",
    ),
    (
        (
            "Could not resolve host|Connection refused|Failed to connect|No route to host|Network is unreachable|kex_exchange_identification|"
            "Connection (closed|reset) by"
        ),
        NETWORK,
    ),
    (
        "SSL certificate|certificate verif|self-signed certificate",
        "Install the server's CA on this controller, or name its file in git's setting http.sslCAInfo.",
    ),
    (
        "detected dubious ownership",
        (
            "Another user owns the repository. Deploy as that user, give the directory to yourself (chown -R), or, if you trust its owner, run "
            "`git config --global --add safe.directory DIRECTORY`."
        ),
    ),
    (
        (
            "Repository not found|[Rr]epository .* not found|project you were looking for could not be found|could not read (Username|Password)|"
            "Authentication failed|Invalid username or|Access denied|requested URL returned error: 40[0134]"
        ),
        PRIVATE,
    ),
    ("does not appear to be a git repository|does not exist", "Check the path in the URL."),
    ("transport '.*' not allowed|[Uu]nable to find remote helper", "Use a URL that begins with https:// or ssh://."),
    (
        "shallow (repository|capabilities|file)",
        "The repository is an incomplete (shallow) clone. Complete it with `git fetch --unshallow`, or use the URL that it was cloned from.",
    ),
    (
        "not our ref|unadvertised object",
        "The server does not have this commit. Push it: `git push --recurse-submodules=on-demand`.",
    ),
    ("No space left on device|Disk quota exceeded", "Free disk space on this controller. ~/.cache/flaskhost/source can be deleted."),
    (
        "cannot run ssh|ssh: not found|ssh: command not found",
        "Install an SSH client on this controller, or use a URL that begins with https://.",
    ),
    (
        r"is corrupt|is empty$|bad object|missing (blob|tree|commit)|unable to read (tree|sha1)|inflate|index file (corrupt|smaller)",
        "The repository is damaged; `git fsck` shows more. Clone it again. Flaskhost's own clones in ~/.cache/flaskhost/source can be deleted.",
    ),
)


def explain(errors, is_url):
    lines = [line.strip().removeprefix("remote:").strip() for line in errors.replace("\r", "\n").splitlines()]
    lines = [line for line in lines if line.strip("@ ")]
    for pattern, fix in REASONS:
        for line in lines:
            if re.search(pattern, line):
                return message(line, fix)
    last = lines[-1] if lines else "git failed without a message"
    first = next((line for line in lines if line.startswith(("fatal: ", "error: "))), last)
    return message(first, URL_FIX if is_url else WORKING_COPY_FIX)


def message(line, fix):
    return f"app_source: git cannot read the source ({line.strip('@ ')[:500]}). {fix}"
