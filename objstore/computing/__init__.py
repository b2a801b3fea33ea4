"""Computing: of all who want the same result at the same time one computes it, and the others wait for him.

`once` is what this room is for, `flights` what is under way in this process, `lookout` the thread that looks whether
another process is done.  Nothing here knows keys, records or codecs.
"""
