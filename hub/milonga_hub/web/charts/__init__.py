"""Pictures for pages, as SVG made on the server: one picture a file, colours by class from the style sheet."""
