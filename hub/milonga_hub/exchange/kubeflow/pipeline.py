"""The pipeline in Kubeflow's own words: steps, what they hand on, and the parameters that a submission may change.

It is written with the SDK, `pip install 'milonga-hub[kfp]'`, and is the only module that knows it. The source of each step is copied into the
pipeline, so a step imports what it needs itself; and the SDK looks at annotations, so they are not put off.
"""

import warnings
from pathlib import Path
from typing import Any

from kfp import compiler, dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from milonga_hub.runs.plan import RunPlan


def import_data(run: Input[Artifact], dataset: Input[Dataset], data: Output[Dataset]):  # type: ignore[no-untyped-def]
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    data.metadata.update(steps.import_data(Path(run.path), Path(dataset.path), Path(data.path)))


def train(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    data: Input[Dataset],
    supernet: Output[Model],
    figures: Output[Metrics],
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    threads: int,
):
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    found = steps.train(
        Path(run.path),
        Path(data.path),
        Path(supernet.path),
        threads,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    supernet.metadata.update(found)
    for name, value in found.items():
        figures.log_metric(name, value)
    figures.metadata["curve"] = steps.curve(Path(supernet.path))


def profile(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    measurements: Input[Artifact],
    supernet: Input[Model],
    profiled: Output[Artifact],
    search_seed: int,
    threads: int,
):
    import json
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    measured = json.loads(Path(measurements.path).read_text(encoding="utf-8"))
    found = steps.profile(Path(run.path), measured, Path(supernet.path), Path(profiled.path), threads, seed=search_seed)
    profiled.metadata.update(found)


def search(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    measurements: Input[Artifact],
    data: Input[Dataset],
    supernet: Input[Model],
    profiled: Input[Artifact],
    found: Output[Artifact],
    front: Output[Artifact],
    limits: dict,  # type: ignore[type-arg]
    evaluated_subnets: int,
    population: int,
    generations: int,
    verified_candidates: int,
    search_seed: int,
    threads: int,
):
    import json
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    told = steps.search(
        Path(run.path),
        json.loads(Path(measurements.path).read_text(encoding="utf-8")),
        Path(data.path),
        Path(supernet.path),
        Path(profiled.path),
        Path(found.path),
        limits,
        threads,
        evaluated_subnets=evaluated_subnets,
        population=population,
        generations=generations,
        verified_candidates=verified_candidates,
        seed=search_seed,
    )
    found.metadata.update(told)
    front.metadata.update(told)
    Path(front.path).write_text(json.dumps(steps.front(Path(found.path)), indent=1), encoding="utf-8")


def finetune(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    data: Input[Dataset],
    supernet: Input[Model],
    found: Input[Artifact],
    chosen: Output[Model],
    finetune_epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    threads: int,
):
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    told = steps.finetune(
        Path(run.path),
        Path(data.path),
        Path(supernet.path),
        Path(found.path),
        Path(chosen.path),
        threads,
        finetune_epochs=finetune_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
    )
    chosen.metadata.update(told)


def build(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    data: Input[Dataset],
    chosen: Input[Model],
    builds: Output[Model],
    max_accuracy_loss_points: float,
    threads: int,
):
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    told = steps.build(
        Path(run.path),
        Path(data.path),
        Path(chosen.path),
        Path(builds.path),
        threads,
        max_accuracy_loss_points=max_accuracy_loss_points,
    )
    builds.metadata.update(told)


def package(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    measurements: Input[Artifact],
    chosen: Input[Model],
    builds: Input[Model],
    packages: Output[Model],
):
    import json
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    measured = json.loads(Path(measurements.path).read_text(encoding="utf-8"))
    told = steps.package(Path(run.path), measured, Path(chosen.path), Path(builds.path), Path(packages.path))
    packages.metadata.update(told)


def compare(  # type: ignore[no-untyped-def]
    run: Input[Artifact],
    data: Input[Dataset],
    builds: Input[Model],
    packages: Input[Model],
    comparisons: Output[Artifact],
):
    from pathlib import Path

    from milonga_hub.exchange.kubeflow import steps

    told = steps.compare(
        Path(run.path), Path(data.path), Path(builds.path), Path(packages.path), Path(comparisons.path)
    )
    comparisons.metadata.update(told)


def write(plan: RunPlan, run: str, image: str, uri: str, path: Path) -> None:
    """Write the pipeline of a run as IR YAML, with the run's own values as defaults of its parameters.

    `image` is what all steps run in, and `uri` the folder in which the cluster finds the files of the export.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiler.Compiler().compile(_pipeline(plan, run, image, uri.rstrip("/")), str(path))


def _pipeline(plan: RunPlan, run: str, image: str, uri: str) -> Any:
    training, looked_for, builds = plan.spec.training, plan.spec.search, plan.spec.build
    project, _, number = run.removeprefix("projects/").partition("/runs/")

    def step(function: Any) -> Any:
        # The image has the SDK: nothing is installed while the pipeline runs.
        return dsl.component(function, base_image=image, install_kfp_package=False)

    @dsl.pipeline(
        name=f"milonga-{project}-{number}",
        description=f"The jobs of {run} of Milonga. Latencies are those that its devices measured: a cluster has none.",
    )
    def milonga(  # type: ignore[no-untyped-def]
        run: str = f"{uri}/run.zip",
        dataset: str = f"{uri}/dataset.zip",
        measurements: str = f"{uri}/measurements.json",
        epochs: int = training.retrain_epochs if plan.base_supernet else training.epochs,
        finetune_epochs: int = training.finetune_epochs,
        batch_size: int = training.batch_size,
        learning_rate: float = training.learning_rate,
        seed: int = training.seed,
        search_seed: int = looked_for.seed,
        evaluated_subnets: int = looked_for.evaluated_subnets,
        population: int = looked_for.population,
        generations: int = looked_for.generations,
        verified_candidates: int = looked_for.verified_candidates,
        limits: dict = _limits(plan),  # type: ignore[type-arg]
        max_accuracy_loss_points: float = builds.max_accuracy_loss_points,
        threads: int = training.threads,
    ):
        of_run = dsl.importer(artifact_uri=run, artifact_class=Artifact).set_display_name("run").output
        pictures = dsl.importer(artifact_uri=dataset, artifact_class=Dataset).set_display_name("data set").output
        measured = dsl.importer(artifact_uri=measurements, artifact_class=Artifact)
        measured = measured.set_display_name("measurements of devices").output
        data = step(import_data)(run=of_run, dataset=pictures).outputs["data"]
        recipe = {"batch_size": batch_size, "learning_rate": learning_rate, "seed": seed, "threads": threads}
        supernet = step(train)(run=of_run, data=data, epochs=epochs, **recipe).outputs["supernet"]
        profiled = step(profile)(
            run=of_run, measurements=measured, supernet=supernet, search_seed=search_seed, threads=threads
        ).outputs["profiled"]
        found = step(search)(
            run=of_run,
            measurements=measured,
            data=data,
            supernet=supernet,
            profiled=profiled,
            limits=limits,
            evaluated_subnets=evaluated_subnets,
            population=population,
            generations=generations,
            verified_candidates=verified_candidates,
            search_seed=search_seed,
            threads=threads,
        ).outputs["found"]
        chosen = step(finetune)(
            run=of_run, data=data, supernet=supernet, found=found, finetune_epochs=finetune_epochs, **recipe
        ).outputs["chosen"]
        built = step(build)(
            run=of_run,
            data=data,
            chosen=chosen,
            max_accuracy_loss_points=max_accuracy_loss_points,
            threads=threads,
        ).outputs["builds"]
        packed = step(package)(run=of_run, measurements=measured, chosen=chosen, builds=built).outputs["packages"]
        step(compare)(run=of_run, data=data, builds=built, packages=packed)

    return milonga


def _limits(plan: RunPlan) -> dict[str, dict[str, Any]]:
    return {item.name: item.limits.model_dump(exclude_none=True, exclude={"selector"}) for item in plan.types}
