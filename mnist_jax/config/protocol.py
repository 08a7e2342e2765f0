"""The four protocols: how a run is scored, and what chooses its epoch and grid point."""

from typing import NamedTuple


class Protocol(NamedTuple):
    """A protocol in columns of `results.csv` and in words."""

    held_out: str | None  # the split that is scored after each epoch
    choose_epoch: bool  # whether its best epoch counts, not the last
    criterion: str | None  # the accuracy that chooses grid point and trial
    column: str  # of the test accuracy that counts
    words: str  # what chose, for headlines
    measure: str  # what the column holds, for tables and axes
    note: str  # what a reader must know to interpret it


PROTOCOLS = {
    "test": Protocol(
        held_out="test",
        choose_epoch=True,
        criterion="best_test_accuracy",
        column="best_test_accuracy",
        words="epoch chosen on the test set",
        measure="best-epoch test accuracy",
        note="The images that score an epoch also chose it, the best grid point and the best trial"
        " (the notebook's protocol), so best-epoch accuracies are biased upwards.",
    ),
    "validation": Protocol(
        held_out="validation",
        choose_epoch=True,
        criterion="best_validation_accuracy",
        column="test_accuracy_at_best_validation",
        words="epoch chosen on validation images",
        measure="chosen-epoch test accuracy",
        note="Validation images, cut from the training set, chose the epoch, the best grid point"
        " and the best trial. Test images chose none of these: they were scored once a trial.",
    ),
    "validation_last_epoch": Protocol(
        held_out="validation",
        choose_epoch=False,
        criterion="validation_accuracy",
        column="test_accuracy",
        words="last epoch; grid point chosen on validation images",
        measure="last-epoch test accuracy",
        note="The last epoch counts. Validation images, cut from the training set, chose the best"
        " grid point and the best trial. Test images chose neither: they were scored once a trial.",
    ),
    "last_epoch": Protocol(
        held_out=None,
        choose_epoch=False,
        criterion=None,
        column="test_accuracy",
        words="last epoch, nothing chosen",
        measure="last-epoch test accuracy",
        note="The last epoch counts, and test images were scored once a trial. Nothing was chosen"
        " in this run: its best grid point is best on the test set, which is no honest choice.",
    ),
}


def so_far(p: Protocol) -> Protocol:
    """Returns a protocol as a run follows it that is not finished.

    What is shown of each trial is what it would be if it ended where it is. Test images that are
    scored at the end of a trial are replaced by those that are held out, or by the training images.
    """
    when = "best-epoch" if p.choose_epoch else "latest"
    if p.held_out == "test":
        return p._replace(measure=f"{p.measure} so far")
    if p.held_out:
        return p._replace(
            column=str(p.criterion),
            measure=f"{when} validation accuracy so far",
            note="Test images are scored when a trial ends, so this is the accuracy on validation"
            " images, cut from the training set. They choose the best grid point"
            + (" and the epoch, so it is biased upwards." if p.choose_epoch else "."),
        )
    return p._replace(
        column="train_accuracy",
        measure="training accuracy so far",
        note="Test images are scored when a trial ends, and nothing is held out. So this is the"
        " accuracy on the training images, the running mean over the latest epoch, which says"
        " nothing of other images. Nothing is chosen.",
    )


def protocol_name(num_validation: int, choose_epoch: bool) -> str:
    """Returns the name of the protocol that a config asks for."""
    if num_validation:
        return "validation" if choose_epoch else "validation_last_epoch"
    return "test" if choose_epoch else "last_epoch"
