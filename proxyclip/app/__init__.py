"""A page in the browser: images and names in, a label for every pixel out, to look at and to download."""
