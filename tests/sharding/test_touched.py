import numpy as np

from sharding.touched import Touched


def test_rows_are_those_moved_since_the_base_and_those_moved_while_it_was_written():
    touched = Touched(10)
    touched.mark(np.array([3, 1, 3]))
    touched.begin()
    touched.mark(np.array([7, 1]))

    assert touched.rows().tolist() == [1, 3, 7]
    touched.commit()
    assert touched.rows().tolist() == [1, 7]

    touched.mark(np.array([9]))
    touched.begin()
    touched.mark(np.array([2, 9]))
    touched.commit()
    assert touched.rows().tolist() == [2, 9]


def test_a_whole_save_that_failed_forgets_no_row():
    touched = Touched(10)
    touched.mark(np.array([1]))
    touched.begin()
    touched.mark(np.array([2]))

    touched.fail()

    assert touched.rows().tolist() == [1, 2]
    touched.begin()
    touched.commit()
    assert touched.rows().tolist() == []
