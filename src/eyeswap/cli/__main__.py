"""Makes `python -m eyeswap.cli` the same as `eyeswap`, for torchrun."""

from __future__ import annotations

from eyeswap.cli.main import main

if __name__ == "__main__":
    main()
