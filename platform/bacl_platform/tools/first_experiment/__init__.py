"""`bacl init`: a first experiment file for a user's data, with choices that fit them.

`layouts` finds the annotation files and images of an export, `splitting` divides a set that has no
validation split, `facts` counts, `choices` decides by the counts, `starts` picks the backbone,
`writing` makes the file's text, `told` the sentences for the terminal; `make` does all of it.
"""
