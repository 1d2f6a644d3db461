"""The instruments' views: what `lpl analyze` and `lpl calibrate` left in their folders, to pick from and compare.

`folders` reads them, `contents` says what of them, `store` inlines their pictures within the page's budget, and each
other file is one view: numbers and pictures for its template and script.
"""
