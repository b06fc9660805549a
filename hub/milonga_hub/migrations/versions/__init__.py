"""One file a revision, the first of which makes what there was when revisions began."""
