import platform
from pathlib import Path

import pytest

from models.hardware import processor


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        (
            "AMD EPYC 9B14",
            "fpu avx2 avx512f avx512_vnni avx512_bf16",
            "AMD EPYC 9B14, with AVX2, AVX-512, VNNI, BF16, without AMX",
        ),
        (
            "Intel(R) Xeon(R) Platinum 8481C",
            "avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_tile amx_int8",
            "Intel(R) Xeon(R) Platinum 8481C, with AVX2, AVX-512, VNNI, BF16, AMX",
        ),
        (
            "12th Gen Intel(R) Core(TM) i7",
            "avx2 avx_vnni",
            "12th Gen Intel(R) Core(TM) i7, with AVX2, VNNI, without AVX-512, BF16, AMX",
        ),
        ("Old", "sse4_2", "Old, without AVX2, AVX-512, VNNI, BF16, AMX"),
    ],
)
def test_a_processor_is_named_with_the_extensions_it_has_and_lacks(
    name: str, flags: str, said: str, tmp_path: Path
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    core = f"processor\t: 0\nmodel name\t: {name}\nflags\t\t: {flags}\n"
    cpuinfo.write_text(f"{core}\n{core}")
    assert processor(cpuinfo) == said


def test_where_the_kernel_names_no_processor_its_architecture_is_told(tmp_path: Path) -> None:
    assert processor(tmp_path / "missing") == platform.machine()
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd\n")
    assert processor(tmp_path / "cpuinfo") == platform.machine()


def test_this_machine_has_a_name() -> None:
    assert processor()
