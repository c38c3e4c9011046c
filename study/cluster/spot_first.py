"""Which machine of `cluster.yaml` Ray's autoscaler starts next: a spot one, unless spot was refused lately.

The head names `score` in RAY_AUTOSCALER_UTILIZATION_SCORER. Nothing else imports this module.
"""

from typing import Any

from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer as usual_score


def score(
    node_resources: dict[str, float],
    resource_demands: list[dict[str, float]],
    node_type: str,
    *,
    node_availability_summary: Any,
) -> tuple[Any, ...] | None:
    """Ray's own score, but a type that the cloud has refused ranks behind equal ones that it has not.

    Ray remembers a refusal for 30 minutes (AUTOSCALER_NODE_AVAILABILITY_MAX_STALENESS_S) and hands it to
    this function; its own ignores it, and would ask for the same type for ever. Equal types rank by name,
    the last one first: `gpu_spot` before `gpu_on_demand`.

    Args:
        node_resources: of one machine of the type.
        resource_demands: what waits.
        node_type: its name.
        node_availability_summary: what the last attempt to start each type came to.

    Returns:
        What Ray compares, the greatest is taken; None where nothing that waits fits.
    """
    usual = usual_score(
        node_resources, resource_demands, node_type, node_availability_summary=node_availability_summary
    )
    if usual is None:
        return None
    gpu_is_needed, *rest = usual  # stays first: no GPU machine for CPU work because a CPU one was refused
    last = node_availability_summary.node_availabilities.get(node_type)
    return (gpu_is_needed, last is None or last.is_available, *rest)
