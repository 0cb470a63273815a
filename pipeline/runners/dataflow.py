"""Google Cloud Dataflow."""

from __future__ import annotations

import importlib
from collections.abc import Sequence


def dataflow_problems(flags: Sequence[str]) -> list[str]:
    """What Beam finds wrong with Dataflow's flags; unlike its own check as a whole, this makes no bucket."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
    from apache_beam.runners import create_runner

    options = PipelineOptions(list(flags))
    validator = PipelineOptionsValidator(options, create_runner("DataflowRunner"))
    view = options.view_as(GoogleCloudOptions)
    places = {name: validator.validate_gcs_path(view, name) for name in ("temp_location", "staging_location")}
    # Either will do for both. Without any, Beam makes a bucket, if it has the libraries for it.
    lacking = all(places.values()) and (
        any(getattr(view, name) is not None for name in places) or not _can_make_buckets()
    )
    problems = [*places["temp_location"], *places["staging_location"]] if lacking else []
    return [*problems, *validator.validate_cloud_options(view)]


def _can_make_buckets() -> bool:
    try:
        importlib.import_module("apache_beam.io.gcp.gcsio")
    except ImportError:
        return False
    return True
