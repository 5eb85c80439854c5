#!/usr/bin/env python3
"""Register a work and its license on chain. For creators; needs no torch and, by default, no gas.

    python scripts/register_content.py examples/works/varn-point --key creator.key.json
    python scripts/register_content.py examples/works/varn-point --key creator.key.json --direct

The same as `viz content register`; --help tells every option. Chain, registry and token come from
the deployment that you trust (`viz trust URL`); what is signed is shown, and asked for, first.
"""

from __future__ import annotations

import typer

from viz.cli.creator.content import register

if __name__ == "__main__":
    typer.run(register)
