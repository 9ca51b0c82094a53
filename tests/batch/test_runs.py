"""What ends a run reaches the user with a code."""

import time

import pytest
import ray.exceptions
from ray.data.exceptions import ExecutionTimeoutError

from gapray.batch.runs import new_run_id
from gapray.errors import InputError, ResourceError
from gapray.ray_session import unwrapped_ray_errors


def task_error(cause):
    return ray.exceptions.RayTaskError("write", "trace", cause)


def test_gapray_errors_are_unwrapped():
    ours = InputError("image.empty", "nothing in it")
    with pytest.raises(InputError) as caught, unwrapped_ray_errors():
        raise task_error(task_error(ours))
    assert caught.value is ours


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.NodeDiedError("the node with the driver's objects died"),
        ray.exceptions.OutOfMemoryError("worker killed"),
        task_error(ray.exceptions.OwnerDiedError("00", None, "here")),
    ],
)
def test_ray_failures_have_a_code_whose_remedy_is_to_retry(error):
    with pytest.raises(ResourceError) as caught, unwrapped_ray_errors():
        raise error
    assert caught.value.code == "cluster.failed"
    assert "again" in caught.value.remedy


def test_a_stall_has_a_code_whose_remedy_names_the_setting():
    with pytest.raises(ResourceError) as caught, unwrapped_ray_errors():
        raise ExecutionTimeoutError(
            "Dataset execution made no progress for at least 9s of scheduling time (timeout: 9s). …"
        )
    assert (caught.value.code, caught.value.exit_code) == ("cluster.stalled", 1)
    assert "9s" in caught.value.message and "run.no_progress_s" in caught.value.remedy


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ray.exceptions.RayTaskError), unwrapped_ray_errors():
        raise task_error(ZeroDivisionError())


def test_run_ids_sort_by_time_within_a_second():
    ids = []
    for _ in range(20):
        ids.append(new_run_id())
        time.sleep(0.002)
    assert ids == sorted(ids) and len(set(ids)) == 20
