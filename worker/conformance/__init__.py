"""The DICOM Conformance Statement: ``python -m worker.conformance`` renews the tables of docs/conformance.md.

The prose of the page is written by hand in the form of PS3.2 Annex N; every table stands between two markers
and is made here from the code that it describes (docs/decisions/0049).
"""
