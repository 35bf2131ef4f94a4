"""The modalities that are registered, and what importing them costs."""

import subprocess
import sys

import pytest

from smalti.core.errors import InputError
from smalti.core.extras import needs_extra
from smalti.core.modality import MODALITIES


@pytest.mark.parametrize("kind", ["array", "audio", "code_grid", "image", "log_mel", "video"])
def test_each_modality_is_built_from_its_config(kind):
    config = MODALITIES.get(kind).tiny()
    assert MODALITIES.parse(config.model_dump(mode="json")) == config
    spec = config.build().spec
    assert len(spec.axes) == spec.ndim


def test_every_registered_kind_is_in_the_list_above():
    (mark,) = test_each_modality_is_built_from_its_config.pytestmark
    assert sorted(MODALITIES.kinds()) == mark.args[1]


def test_importing_every_modality_needs_no_package_of_one_medium():
    script = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('av', 'soundfile', 'soxr')))\n"
        "from smalti.core.modality import MODALITIES\n"
        "assert 'image' in MODALITIES.kinds()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_missing_package_is_reported_with_its_extra():
    with pytest.raises(InputError, match=r"smalti\[video\]"), needs_extra("video"):
        import no_such_package_of_media  # noqa: F401  # pyright: ignore[reportMissingImports]
