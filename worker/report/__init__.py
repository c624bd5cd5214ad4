"""The Structured Report: codes, patient attributes, content tree, document."""
