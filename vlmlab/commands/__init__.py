"""The commands of `vlmlab`, one module a family; `vlmlab.cli` puts them together. Notebook 00 shows them."""
