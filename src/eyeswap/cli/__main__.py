"""Lets `python -m eyeswap.cli` stand for the `eyeswap` command."""

from __future__ import annotations

from eyeswap.cli.main import main

if __name__ == "__main__":
    main()
