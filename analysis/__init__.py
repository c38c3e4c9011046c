"""Reading the ledger: tables, figures and reports of a study or a search. Needs neither PyTorch nor Ray.

Names that all modules share: `trials` is the frame of `analysis.trials.load`, `summary` what
`analysis.stats.summary.summarise` makes of it, `compared` what `analysis.stats.comparisons.comparisons` does;
`cell` and `number` number a cell, `ledger` has the artifacts, `cache` draws figures.
"""
