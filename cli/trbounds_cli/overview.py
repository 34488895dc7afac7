"""The list of commands, read off their files without importing them."""

from __future__ import annotations

import os

#: Commands in the order of the overview. Every file of ``commands/`` is in one group.
GROUPS: dict[str, tuple[str, ...]] = {
    "Bounds": ("bounds", "bound", "solve", "plot", "derive", "tightness"),
    "Traces": ("summarize", "convert", "verify", "steps", "mask", "threshold", "metrics"),
    "Logits": ("mismatch", "prune", "divergences"),
    "Papers": ("table", "check", "figures"),
}

_FOLDER = os.path.join(os.path.dirname(__file__), "commands")


def command_names() -> tuple[str, ...]:
    """Return the names of all commands."""
    return tuple(name for group in GROUPS.values() for name in group)


def summary(name: str) -> str:
    """Return the first line of a command's file: what it does, in one line."""
    with open(os.path.join(_FOLDER, f"{name}.py"), encoding="utf-8") as file:
        return file.readline().strip().strip('"')


def overview() -> str:
    """Return what ``trbounds --help`` prints."""
    width = max(len(name) for name in command_names()) + 2
    parts = [
        "Usage: trbounds COMMAND [OPTIONS]",
        "",
        "How far can an RL surrogate be from the true objective when one policy samples",
        "and another is trained? Bounds, their proofs, and what logged traces say.",
    ]
    for title, names in GROUPS.items():
        parts += ["", f"{title}:"]
        parts += [f"  {name:{width}}{summary(name)}" for name in names]
    parts += [
        "",
        "Start with:",
        "  trbounds plot --T 8192",
        "  trbounds bound --T 4096 --kl-max 1e-4 --kl-seq 0.01",
        "  trbounds verify --example",
        "",
        "Every command has --help with an example. Exit codes: 0 fine, 1 a check found",
        "something, 2 bad usage or bad input. Also: --version, --install-completion.",
    ]
    return "\n".join(parts) + "\n"
