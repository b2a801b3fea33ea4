"""Exchange: what is in a store to and from the files of other programs, and to and from one file that holds it all.

Importing: `base` says what a source is, and each format has a file that reads it (`pickles`, `shelves`, `diskcaches`,
`sqlitedicts`, `rawlmdb`, `lines`); `recognising` tells them apart, and `consent` decodes what is in them.  `landing` is
where an entry meets the store, `passes` goes through the sources, `importing` has the call, `reports` what it says.

Exporting: `decoding` reads the values, `jsonlines` and `pickledirs` say how an entry is written, `files` makes what is
there as a whole or not at all, `exporting` has the call.

The dump: `dumpfile` is the format, `dumps` writes and restores it.
"""
