"""Sources of tiny notebooks, for the tests of the strict runner."""

PARAMETERS = 'profile = "quick"\nseed = 0\ndevice = "cpu"\nsteps = 3\nrate = 0.5\ntext = "a=b"'


def percent(*cells: str, parameters: str | None = PARAMETERS) -> str:
    """A py:percent source: a parameters cell, then `cells`; one that starts with "md " is markdown."""
    parts = [] if parameters is None else [f'# %% tags=["parameters"]\n{parameters}\n']
    for cell in cells:
        if cell.startswith("md "):
            parts.append("# %% [markdown]\n" + "\n".join(f"# {line}" for line in cell[3:].splitlines()) + "\n")
        else:
            parts.append(f"# %%\n{cell}\n")
    return "\n".join(parts)
