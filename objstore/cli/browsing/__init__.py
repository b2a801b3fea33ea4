"""A look inside a store on a terminal: what there is (`tree`), what a value is made of (`disassembly`), the screens.

The first two know nothing of screens; Textual is known in `app` and `screens` alone.
"""
