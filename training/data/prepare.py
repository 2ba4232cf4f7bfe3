"""From a recipe to the images of a run: read, scanned, grouped, split."""

from dataclasses import dataclass, replace

from models.wording import counted
from training.data import conflicts, datasets, file_scan, near_duplicates, split
from training.data.contents import Contents
from training.data.datasets import Dataset
from training.data.split import Split
from training.recipe import Recipe, data_arguments


@dataclass(frozen=True)
class Prepared:
    """The images of a run. `contents` keeps the bytes of their files for a second read."""

    dataset: Dataset
    split: Split
    contents: Contents


def prepare(recipe: Recipe) -> Prepared:
    """Read DATA, scan every file once, and split; prints what the user should know."""
    dataset = datasets.read_as(recipe)
    datasets.check_labels(dataset)
    contents = Contents()
    scanned = file_scan.scan(dataset.root, dataset.records, contents)
    file_scan.refuse_bad(dataset.root, scanned, data_arguments(recipe))
    conflicts.refuse(scanned, data_arguments(recipe))
    dataset = replace(dataset, records=tuple(near_duplicates.group(scanned)))
    sides = split.split(dataset, recipe.valid, recipe.seed)
    dataset.print_notes()
    if near := split.straddling(sides.records, lambda record: record.group):
        print(
            f"{counted(len(near), 'group')} of near-duplicates on both sides of the split,"
            f" such as {near[0].train[0].file} and {near[0].valid[0].file}: see inspect"
        )
    print(
        f"{counted(len(dataset.records), 'image')}, {counted(len(dataset.labels), 'label')},"
        f" {dataset.task}-label:"
        f" {len(sides.train)} for training, {len(sides.valid)} for validation"
    )
    return Prepared(dataset, sides, contents)
