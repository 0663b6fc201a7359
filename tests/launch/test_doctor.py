from launch.commands.doctor import _warnings
from tests.launch.command import muxtable


def test_it_says_what_there_is_and_which_engines_work():
    done = muxtable("doctor", "--json")

    document = done.document
    assert done.code == 0
    assert document["versions"]["muxtable"]
    assert document["native"]["instruction_set"] in ("baseline", "avx2", "avx512")
    assert document["engines"]["fused"] is None
    assert len(document["openmp"]) == 1


def test_without_torch_it_leaves_the_engines_out():
    done = muxtable("doctor", "--no-torch", "--json")

    assert "engines" not in done.document


def test_a_person_gets_the_same_facts():
    done = muxtable("doctor")

    assert done.code == 0
    assert "table engines" in done.out
    assert "works" in done.out


def test_two_openmp_libraries_and_a_missing_module_are_warned_of():
    document = {
        "openmp": ["/a/libgomp.so.1", "/b/libgomp-1.so"],
        "native": {"available": False, "reason": "No module"},
        "machine": {"huge_pages": "never"},
    }

    warnings = " | ".join(_warnings(document))

    assert "2 OpenMP libraries" in warnings
    assert "native module is missing" in warnings
    assert "huge pages are off" in warnings
