"""What the chapters on the paper show: a module a chapter, tables first, figures beside them.

``figure1`` is the model of the others. Statistics come from `cliplib.laws`, figures from the paper
from `cliplib.published`; here they meet, as tables for a page and pictures of them.
"""
