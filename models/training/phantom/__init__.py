"""Simulator of low-dose chest CT with coronary calcium: every factor random, seeded, and known."""

from models.training.phantom.config import PhantomConfig, PhantomScan
from models.training.phantom.dicom import write_dicom
from models.training.phantom.reference import write_reference
from models.training.phantom.scan import make_many, make_scan

__all__ = ["PhantomConfig", "PhantomScan", "make_many", "make_scan", "write_dicom", "write_reference"]
