"""The figures of a report, a file each: what draws one returns it with its caption."""
