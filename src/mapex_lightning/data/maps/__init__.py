"""Maps of whole scenes: windows that cover them, and what is blended out of windows and written."""
