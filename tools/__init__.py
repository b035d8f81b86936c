"""Commands around the two sides, one file each; folders hold what the commands run.

bench: every speed. published: names, twins and numbers of the published code. studies: many runs of
one question. pages: HTML.
"""
