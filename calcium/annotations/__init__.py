"""Readers of a site's own annotations, for training: a label map on the grid of a volume, or totals.

=========================  ==================================  ==========================================
format                     reader                              gives
=========================  ==================================  ==========================================
Stanford COCA, gated       `coca.read_plist`                   uint8 labels on the grid of the series
Stanford COCA, non-gated   `coca.read_totals`                  totals by file name
orCaScore                  `label_maps.read_label_map`         uint8 labels (1 LAD with LM, 2 LCX, 3 RCA)
NRRD, NIfTI, MetaImage     `label_maps.read_label_map`         uint8 labels
DICOM SEG                  `dicom_seg.read_seg`                uint8 labels
DICOM RTSTRUCT             `rtstruct.read_rtstruct`            uint8 labels
CSV                        `totals.read_csv`                   totals by SeriesInstanceUID or PatientID
=========================  ==================================  ==========================================

`files.read_labels` reads any of the files with a mask. Labels are those of `vessels.Vessel`.
`grids.to_resampled` brings a label map to the grid that is scored.
"""
