"""Makes the documentation's site: reference pages from the code, and what mkdocs needs to read this repository's files."""
