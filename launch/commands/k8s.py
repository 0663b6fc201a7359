"""`muxtable k8s`: manifests of a job and of the service, sized by its plan, and their rules."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import PlanError
from launch.console import Output, size_text
from launch.settings import load_job
from launch.targets import Overrides

if TYPE_CHECKING:
    from launch.k8s.manifests import Object
    from launch.k8s.sizes import PodSize
    from trainer.job import Job

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Print manifests for Kubernetes, or hold manifests against our rules.",
)
_SERVICE = "Service"
_CLAIMS = "Volumes"
Optional = str | None


@app.command()
def render(
    ctx: typer.Context,
    job_path: Annotated[
        Path, typer.Option("--job", metavar="JOB", help="Job file (TOML); its data is read.")
    ],
    image: Annotated[str, typer.Option(help="Image of training: REGISTRY/NAME@sha256:...")],
    workers: Annotated[int, typer.Option(min=1, help="Ranks of the training.")],
    overrides: Overrides = None,
    profile_path: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="A profile.json of the same data."),
    ] = None,
    name: Annotated[Optional, typer.Option(help="Of the RayJob. [default: the job's]")] = None,
    namespace: Annotated[str, typer.Option(help="Where all of it lives.")] = "muxtable",
    ranks_per_pod: Annotated[int, typer.Option(min=1, help="Ranks in each worker's pod.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="CPUs and threads of a rank.")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each rank.")] = False,
    node: Annotated[
        Optional,
        typer.Option(
            metavar="cpu=C,memory=SIZE,gpu=G", help="What a node has; pods have to fit it."
        ),
    ] = None,
    data_claim: Annotated[
        Optional, typer.Option(help="A claim that is there, for data/.", rich_help_panel=_CLAIMS)
    ] = None,
    runs_claim: Annotated[
        Optional, typer.Option(help="A claim that is there, for runs/.", rich_help_panel=_CLAIMS)
    ] = None,
    versions_claim: Annotated[
        Optional,
        typer.Option(help="A claim that is there, for versions/.", rich_help_panel=_CLAIMS),
    ] = None,
    versions: Annotated[
        Optional,
        typer.Option(
            metavar="s3://BUCKET/PREFIX",
            help="Where versions lie, instead of on a claim.",
            rich_help_panel=_CLAIMS,
        ),
    ] = None,
    bucket_secret: Annotated[
        Optional,
        typer.Option(help="Secret with the keys of a bucket.", rich_help_panel=_CLAIMS),
    ] = None,
    serve_image: Annotated[
        Optional,
        typer.Option(help="Image of the service; adds the service.", rich_help_panel=_SERVICE),
    ] = None,
    version: Annotated[
        Optional,
        typer.Option(
            help="Version in force, or its folder here.",
            metavar="VERSION|DIR",
            rich_help_panel=_SERVICE,
        ),
    ] = None,
    replicas: Annotated[
        int, typer.Option(min=1, help="Pods of the service.", rich_help_panel=_SERVICE)
    ] = 2,
    serve_threads: Annotated[
        int, typer.Option(min=1, help="CPUs of each of them.", rich_help_panel=_SERVICE)
    ] = 2,
    tls_secret: Annotated[
        Optional,
        typer.Option(help="Secret with tls.crt and tls.key.", rich_help_panel=_SERVICE),
    ] = None,
    access_secret: Annotated[
        Optional,
        typer.Option(help="Secret with the file of roles, access.", rich_help_panel=_SERVICE),
    ] = None,
) -> None:
    """Print the objects of a job, and of a service, ready for `kubectl apply -f -`."""
    from launch.k8s import render as parts
    from launch.k8s import sizes, wishes
    from launch.k8s.base import to_text
    from trainer.order import rank_streams

    output: Output = ctx.obj
    job = load_job(job_path, overrides or ())
    name = name or job_path.stem.replace("_", "-").lower()
    wishes.check_job_name(name)
    wishes.check_name(namespace, "--namespace")
    wishes.check_image(image, "--image")
    wishes.check_layout(workers, ranks_per_pod)
    rank_streams(streams=job.data.streams, rank=0, world_size=workers)
    run_dir = wishes.run_dir(job, job_path)
    bucket = wishes.check_versions(versions, versions_claim)
    if wishes.check_data(job) or bucket is not None:
        wishes.check_secret(bucket_secret, "--bucket-secret", "the job has files in a bucket")
    node_type = sizes.NodeType.parse(node or "")
    cpus, head = ranks_per_pod * threads, sizes.head_size()
    node_type.refuse("worker", cpus=cpus, gpus=ranks_per_pod if gpu else 0)
    node_type.refuse("head", cpus=head.cpus, memory_bytes=head.memory_bytes)
    wanted = None
    if serve_image is not None:
        wanted = wishes.check_service(serve_image, version, tls_secret, access_secret)
        node_type.refuse("service", cpus=serve_threads)

    peak_bytes, table_bytes = _forecast(job, job_path, profile_path, workers, output)
    worker = sizes.worker_size(peak_bytes, ranks_per_pod, threads, has_gpus=gpu)
    node_type.refuse("worker", memory_bytes=worker.memory_bytes)
    pods = {"worker": worker, "head": head}
    given = {"data": data_claim, "runs": runs_claim, "versions": versions_claim}
    claims = parts.Claims(**{key: value for key, value in given.items() if value})
    training = parts.Training(
        name=name,
        image=image,
        job_name=job_path.name,
        job_text=job_path.read_text(encoding="utf-8"),
        overrides=overrides or (),
        run_dir=run_dir,
        workers=workers,
        ranks_per_pod=ranks_per_pod,
        threads=threads,
        pod=worker,
        head=head,
        export=sizes.export_size(peak_bytes),
        bucket_secret=bucket_secret,
        versions=bucket,
    )
    objects = parts.render_ground(
        claims, has_bucket=bucket_secret is not None, has_versions=bucket is None
    )
    objects += parts.render_training(training)
    if wanted is not None:
        folder = Path(wanted.version)
        num_bytes = sizes.folder_bytes(folder) if folder.is_dir() else table_bytes
        pods["service"] = sizes.serve_size(num_bytes, serve_threads)
        node_type.refuse("service", memory_bytes=pods["service"].memory_bytes)
        objects += parts.render_service(
            parts.Serving(
                image=wanted.image,
                version=folder.name,
                replicas=replicas,
                threads=serve_threads,
                tls_secret=wanted.tls_secret,
                access_secret=wanted.access_secret,
                pod=pods["service"],
                version_bytes=num_bytes,
                bucket_secret=bucket_secret,
                versions=bucket,
            )
        )
    objects = parts.placed(objects, namespace, claims)
    _refuse_findings(objects)
    document = {"peak_bytes": peak_bytes, "pods": _sizes(pods), "objects": objects}
    said = [f"# a rank needs {size_text(peak_bytes)} at its peak, as `muxtable plan` says"]
    said += [f"# {whose}: {size.memory}, {size.cpus} CPUs" for whose, size in pods.items()]
    text = "\n".join(said) + "\n" + to_text(objects)

    def write(_: Any) -> None:
        # Not through the console, which would fold and style it.
        sys.stdout.write(text)

    output.result(document, write)


@app.command()
def check(
    ctx: typer.Context,
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Manifests (YAML); - reads stdin.")
    ],
) -> int | None:
    """Hold manifests against our rules: what the schemas of Kubernetes let through."""
    from launch.k8s.base import parse
    from launch.k8s.manifests import Manifests
    from launch.k8s.rules import RULES
    from launch.k8s.rules import check as find

    output: Output = ctx.obj
    objects: list[Object] = []
    for file in files:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        objects += parse(text, "stdin" if file == "-" else file)
    findings = find(Manifests(objects))
    document = {
        "objects": len(objects),
        "findings": [
            {"rule": rule, "where": each.where, "what": each.what, "fix": each.fix}
            for rule, each in findings
        ],
    }

    def draw(console: Any) -> None:
        for rule, each in findings:
            console.print(f"{each.where} {each.what}; {each.fix} ({rule})", soft_wrap=True)
        console.print(f"{len(objects)} objects, {len(RULES)} rules, {len(findings)} findings")

    output.result(document, draw)
    return 2 if findings else None


def _forecast(
    job: Job, job_path: Path, profile_path: Path | None, workers: int, output: Output
) -> tuple[int, int]:
    """Returns the peak of a rank, and the bytes of the table's parameters."""
    from features.parquet import open_dataset
    from features.schema import FeatureSet
    from launch.commands.plan import find_profile
    from launch.targets import run_folder
    from trainer.forecast import forecast_memory, measure_libraries
    from trainer.plan import make_plan

    feature_set = FeatureSet.build(job.data, job.features, job.feature, job.table)
    dataset = open_dataset(job.data.train, job_path.parent)
    dataset.check(feature_set)
    folder = run_folder(job, job_path)
    profile = find_profile(job, dataset, feature_set, folder, profile_path, output)
    plan = make_plan(job, feature_set, profile, world_size=workers)
    output.note("measuring what the libraries take, in a process of their own")
    memory = forecast_memory(job, plan, feature_set, profile, dataset, measure_libraries())
    return memory.peak_bytes, plan.parameter_bytes


def _refuse_findings(objects: list[Object]) -> None:
    from launch.k8s.manifests import Manifests
    from launch.k8s.rules import check as find

    for _, each in find(Manifests(objects)):
        raise PlanError(f"{each.where}: {each.what}", each.fix)


def _sizes(pods: dict[str, PodSize]) -> dict[str, dict[str, int]]:
    return {
        whose: {"memory_bytes": size.memory_bytes, "cpus": size.cpus, "gpus": size.gpus}
        for whose, size in pods.items()
    }
