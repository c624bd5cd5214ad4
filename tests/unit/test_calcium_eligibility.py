"""Which series are refused from their headers, and what is warned of."""

from __future__ import annotations

import pytest
from dicom_series import enhanced, pattern, series, write
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from calcium.eligibility import EligibilityRules, cautions, contrast_in_blood, is_sharp, screen
from calcium.errors import NotEligibleError, SettingsError
from calcium.series import read_series

SLICES = 40


def chest(**elements):
    return series(pattern(SLICES, 8, 8), **elements)


def refused(headers, rules=None):
    with pytest.raises(NotEligibleError) as caught:
        screen(headers, rules)
    assert "P1" not in str(caught.value)
    assert caught.value.uid == "2.25.7700.2"
    return caught.value


def test_a_plain_chest_passes():
    screen(chest())


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("not_ct", {"Modality": "MR"}),
        ("not_ct", {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}),
        ("not_ct", {"Modality": None}),
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}),
        ("localizer", {"ImageType": ["ORIGINAL", "PRIMARY", "SCOUT", "CT_SOM5 TOP"]}),
        ("derived_image", {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CT_SOM5 MIP"]}),
        ("derived_image", {"ImageType": ["DERIVED", "SECONDARY", "MINIP"]}),
        ("derived_image", {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "VRT"]}),
        ("derived_image", {"ImageType": ["DERIVED", "PRIMARY", "AXIAL", "VNC"]}),
        ("not_axial", {"orientation": (1, 0, 0, 0, 0, -1)}),
        ("not_chest", {"BodyPartExamined": "HEAD"}),
        ("not_chest", {"BodyPartExamined": "KNEE"}),
        ("contrast_enhanced", {"ContrastBolusAgent": "IV"}),
        ("contrast_enhanced", {"ContrastBolusAgent": "Omnipaque 350"}),
        ("contrast_enhanced", {"ContrastBolusAgent": "Oral & IV"}),
        ("contrast_enhanced", {"ContrastBolusRoute": "IV"}),
        ("contrast_enhanced", {"ContrastBolusVolume": "80"}),
        ("too_thick", {"thickness": 5.0, "increment": 5.0}),
        ("too_thick", {"thickness": 3.1}),
        ("gapped", {"thickness": 1.0, "increment": 10.0}),
        ("too_short", {"thickness": 1.0, "increment": 1.0}),
    ],
)
def test_refused(code, elements):
    assert refused(chest(**elements)).code == code


@pytest.mark.parametrize(
    "elements",
    [
        {"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]},
        {"ImageType": ["ORIGINAL", "SECONDARY", "AXIAL"]},
        {"ImageType": None},
        {"BodyPartExamined": None},
        {"BodyPartExamined": "ABDOMEN"},
        {"ContrastBolusAgent": "NONE"},
        {"ContrastBolusAgent": "No contrast"},
        {"ContrastBolusAgent": ""},
        {"ContrastBolusAgent": "ORAL"},
        {"ContrastBolusAgent": "Gastrografin", "ContrastBolusRoute": "ORAL"},
        {"ContrastBolusVolume": "0"},
        {"SliceThickness": None},
        {"ImagePositionPatient": None},
        {"thickness": 3.0, "increment": 1.8},
    ],
    ids=str,
)
def test_not_refused(elements):
    screen(chest(**elements))


def test_contrast_on_one_slice_is_enough():
    headers = chest()
    headers[20].ContrastBolusAgent = "APPLIED"
    assert refused(headers).code == "contrast_enhanced"


def test_one_image_is_a_localizer():
    assert refused(chest()[:1]).code == "localizer"


def test_no_instances():
    with pytest.raises(NotEligibleError):
        screen([])


def test_enhanced():
    agent = Dataset()
    agent.CodeMeaning = "Iodinated contrast"
    hu = pattern(SLICES, 8, 8)
    screen([enhanced(hu)])
    assert refused([enhanced(hu, ContrastBolusAgentSequence=Sequence([agent]))]).code == "contrast_enhanced"
    assert refused([enhanced(hu, thickness=4.0)]).code == "too_thick"
    assert refused([enhanced(hu, increment=1.0)]).code == "too_short"


def test_rules_of_a_site():
    thick = chest(thickness=5.0, increment=5.0)
    screen(thick, EligibilityRules(max_slice_thickness_mm=5.0))
    assert "5 mm are thicker than 4 mm" in refused(thick, EligibilityRules(max_slice_thickness_mm=4.0)).text
    assert refused(chest(), EligibilityRules(min_slices=41)).code == "too_few_slices"
    screen(chest(), EligibilityRules(min_slices=40))


@pytest.mark.parametrize(
    "wrong",
    [{"max_slice_thickness_mm": 5.1}, {"max_slice_thickness_mm": float("nan")}, {"min_slices": 0}],
    ids=str,
)
def test_rules_out_of_range(wrong):
    with pytest.raises(SettingsError):
        EligibilityRules(**wrong)


@pytest.mark.parametrize(
    "said", ["none", "NO", "N", "No IV contrast", "w/o", "W/O CONTRAST", "without", "nativ", "-"]
)
def test_words_for_no_contrast(said):
    header = Dataset()
    header.ContrastBolusAgent = said
    assert contrast_in_blood(header) is None


def test_the_agent_is_told_without_control_characters():
    header = Dataset()
    header.ContrastBolusAgent = "IV\x1b[2J" + "x" * 50
    assert contrast_in_blood(header) == "a contrast agent is given (IV2J" + "x" * 20 + ")"


@pytest.mark.parametrize("kernel", ["B70f", "Bl57f", "LUNG", "BONEPLUS", "FC51", "FC86", "L", "I70f\\3", "YC"])
def test_sharp_kernels(kernel):
    assert is_sharp(kernel)


@pytest.mark.parametrize(
    "kernel", ["B30f", "D40s", "B41f", "STANDARD", "SOFT", "FC08", "FC12", "B", "C", "Br40d", "YA", ""]
)
def test_soft_kernels(kernel):
    assert not is_sharp(kernel)


def codes(folder, **elements):
    found = read_series(write(chest(**elements), folder))
    return {caution.code: caution.text for caution in cautions(found)}


def test_cautions_of_a_plain_chest(tmp_path):
    assert codes(tmp_path) == {"few_slices": "40 slices are fewer than 100"}


@pytest.mark.parametrize(
    ("code", "elements"),
    [
        ("kvp", {"KVP": "100"}),
        ("kvp_unknown", {"KVP": None}),
        ("kvp_unknown", {"KVP": ""}),
        ("kernel_unknown", {"ConvolutionKernel": None}),
        ("sharp_kernel", {"ConvolutionKernel": "B70f"}),
        ("lossy", {"LossyImageCompression": "01"}),
        ("thick_slices", {"thickness": 5.0, "increment": 5.0}),
        ("gaps", {"thickness": 1.5, "increment": 2.0}),
        ("oral_contrast", {"ContrastBolusAgent": "ORAL"}),
        ("contrast_hint", {"SeriesDescription": "Thorax with contrast"}),
        ("contrast_hint", {"StudyDescription": "CT ANGIO CHEST"}),
        ("reformatted", {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}),
    ],
    ids=str,
)
def test_cautions(code, elements, tmp_path):
    assert set(codes(tmp_path, **elements)) == {code, "few_slices"}


@pytest.mark.parametrize(
    "said", ["THORAX WO 3.0", "CT Thorax w/o Contrast", "Chest C-/Thorax", "lung low dose"]
)
def test_descriptions_that_deny_contrast(said, tmp_path):
    assert set(codes(tmp_path, SeriesDescription=said)) == {"few_slices"}
