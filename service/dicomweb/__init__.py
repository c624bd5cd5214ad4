"""DICOMweb client (PS3.18): QIDO-RS, WADO-RS and STOW-RS, beside the DIMSE client of service.dimse.

Decision 0043 says why it stands on httpx and python-multipart. URLs carry UIDs, dates and modalities only.
No server is believed: texts are cut, UIDs have the form of UIDs, parts and pages have limits.
"""
