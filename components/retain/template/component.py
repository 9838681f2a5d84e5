"""KFP face of the rendering."""

from kfp import dsl

from retain.faces import on_cpu


@on_cpu
def template(
    config: dict,
    base: dict,
    dataset: dsl.Input[dsl.Dataset],
    generated: dsl.Input[dsl.Dataset],
    rendered: dsl.Output[dsl.Dataset],
    preview: dsl.Output[dsl.HTML],
    domain: str = "",
) -> None:
    """Render rows with the model's own chat template; only answers carry loss.

    Args:
        config: template settings.
        base: the base model; its tokenizer and template are used.
        dataset: checked rows.
        generated: replay rows written by the base, or none.
        rendered: tokens and labels.
        preview: rows with the supervised tokens highlighted.
        domain: the domain of these rows, in a run with several; it only names the stage in the tracker.
    """
    from retain.template.door import run

    rendered.metadata.update(run(config, base, dataset.path, generated.path, rendered.path, preview.path, domain))
