"""A page in the browser: an image and names in, a label for every pixel out, to look at and to download.

page, controls, theme      what the browser shows; static/ holds its markup, style and scripts
routes, server             the HTTP interface beside Gradio's, and the process that serves both
desk                       what the parts share: limits, models, images and results
segmenting, models         one run after the other, and the models in memory
shelf, held                images and results in memory, within a number of bytes
uploads, names, limits     input from strangers
messages                   what a person reads when something is wrong
"""
